"""One place turns what people call a model into its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from uhlm_edge.common.errors import ModelError, UsageError
from uhlm_edge.models import shipped
from uhlm_edge.models.catalogue import load
from uhlm_edge.models.resolve import find_model, locate_model, model_source
from uhlm_edge.models.store import Manifest, Store, StoredFile


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store that the environment names."""
    monkeypatch.setenv("UHLM_MODELS", str(tmp_path / "models"))
    return Store(tmp_path / "models")


def put(store: Store, repo: str, *types: str) -> None:
    """Pretend that these types of a repository were pulled."""
    manifest = Manifest(repo, "c" * 40)
    for type_ in types:
        name = "model.safetensors" if type_ == "safetensors" else f"model.{type_}.gguf"
        manifest.files[name] = StoredFile(type_, 3, "d" * 64, "c" * 40)
        store.place(repo).mkdir(parents=True, exist_ok=True)
        (store.place(repo) / name).write_bytes(b"abc")
    store.save(manifest)


def test_shipped_names_and_paths_are_found(tmp_path: Path, store: Store) -> None:
    assert find_model("demo-slm") == shipped.path_of("demo-slm")
    own = tmp_path / "own.gguf"
    own.touch()
    assert find_model(str(own)) == own


def test_a_pulled_model_is_found_by_each_of_its_names(store: Store) -> None:
    name, entry = next(iter(load().items()))
    put(store, entry.repo, "Q8_0", "Q4_K_M", "safetensors")
    best = store.place(entry.repo) / "model.Q4_K_M.gguf"
    assert find_model(name) == find_model(entry.repo) == find_model(f"{name}:q4_k_m") == best
    assert find_model(f"{entry.repo}:Q8_0").name == "model.Q8_0.gguf"


@pytest.mark.parametrize("asked", ["maker/model", "maker/model:Q4_0", "tinyllama-1.1b"])
def test_what_was_not_pulled_is_answered_with_how_to_pull_it(asked: str, store: Store) -> None:
    put(store, "maker/model", "safetensors")
    with pytest.raises(ModelError, match=f"not here yet; run: uhlm-edge pull {asked}"):
        locate_model(asked)


@pytest.mark.parametrize(
    "asked", ["no-such", "./no.gguf", "~/no.gguf", "~nobody/x", "", "a\0b", "x" * 5000]
)
def test_what_is_no_model_is_answered_with_what_is(asked: str, store: Store) -> None:
    with pytest.raises(ModelError, match="demo-slm"):
        locate_model(asked)


def test_a_damaged_shipped_file_is_refused_and_locating_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path.resolve())
    (tmp_path / shipped.SHIPPED["demo-slm"].file).write_bytes(b"GGUF")
    assert locate_model("demo-slm").parent == tmp_path.resolve()
    with pytest.raises(ModelError, match="damaged"):
        find_model("demo-slm")


def test_a_source_that_is_a_path_is_never_pulled(store: Store) -> None:
    for path in ("./no", "/no/such", "~/no", "no.gguf", "a/b/c"):
        with pytest.raises(UsageError, match="no such file or folder"):
            model_source(path)
