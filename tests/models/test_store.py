"""The store of pulled models, and the catalogue of names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from uhlm_edge.common.errors import ModelError, UsageError
from uhlm_edge.models.catalogue import load, pairs, parse_name, preferred, type_of
from uhlm_edge.models.store import Manifest, Store, StoredFile, default_folder

COMMIT = "a" * 40


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with one repository in two types, and half of another file."""
    store = Store(tmp_path / "models")
    manifest = Manifest("maker/model", COMMIT, "apache-2.0")
    for name, type_, size in (("m.Q4_0.gguf", "Q4_0", 40), ("sub/m.Q8_0.gguf", "Q8_0", 80)):
        manifest.files[name] = StoredFile(type_, size, "d" * 64, COMMIT)
        path = store.place("maker/model") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    store.save(manifest)
    store.partial("maker/model").mkdir(parents=True)
    (store.partial("maker/model") / "x.part").write_bytes(bytes(7))
    return store


def test_the_list_names_each_model_once(store: Store) -> None:
    assert [(one.repo, one.type, one.n_bytes, one.licence) for one in store.models()] == [
        ("maker/model", "Q4_0", 40, "apache-2.0"),
        ("maker/model", "Q8_0", 80, "apache-2.0"),
    ]
    assert Store(store.folder / "none").models() == []


def test_a_model_with_a_file_missing_or_cut_does_not_count(store: Store) -> None:
    place = store.place("maker/model")
    (place / "m.Q4_0.gguf").unlink()
    (place / "sub/m.Q8_0.gguf").write_bytes(b"short")
    assert store.models() == []


def test_removing_frees_what_it_says(store: Store) -> None:
    assert store.disk_use()[1] == 7
    assert store.remove("maker/model", "Q8_0") == 80
    assert [one.type for one in store.models()] == ["Q4_0"]
    assert store.remove("maker/model") == 40 + 7
    assert store.models() == []
    assert store.disk_use() == (0, 0)
    assert not store.place("maker/model").parent.exists()


def test_removing_what_is_not_there_says_so(store: Store) -> None:
    for repo, type_ in (("maker/model", "Q2_K"), ("maker/none", None)):
        with pytest.raises(UsageError, match="not among the pulled models"):
            store.remove(repo, type_)


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"repo": 1}', '{"repo": "a/b", "commit": "c", "files": {"x": {}}}', "\xff"],
)
def test_a_damaged_manifest_is_refused(store: Store, content: str) -> None:
    (store.place("maker/model") / ".pulled.json").write_text(content, "latin-1")
    with pytest.raises(ModelError, match="damaged; remove its folder and pull again"):
        store.models()


def test_a_manifest_cannot_point_outside_its_folder(store: Store) -> None:
    path = store.place("maker/model") / ".pulled.json"
    data = json.loads(path.read_text())
    data["files"]["../../../precious"] = data["files"].pop("m.Q4_0.gguf")
    path.write_text(json.dumps(data))
    with pytest.raises(ModelError, match="unsafe name"):
        store.remove("maker/model")


def test_the_folder_follows_the_environment() -> None:
    assert default_folder({"UHLM_MODELS": "/m", "XDG_DATA_HOME": "/x"}) == Path("/m")
    assert default_folder({"XDG_DATA_HOME": "/x"}) == Path("/x/uhlm-edge/models")
    home = Path.home() / ".local/share/uhlm-edge/models"
    assert default_folder({}) == default_folder({"XDG_DATA_HOME": "relative"}) == home


def test_every_pair_is_of_models_of_the_catalogue() -> None:
    models = load()
    assert len(pairs()) == 5
    for device, cloud in pairs().values():
        assert models[device].parameters < models[cloud].parameters


@pytest.mark.parametrize("entry", load().values(), ids=list(load()))
def test_the_catalogue_is_well_formed(entry: object) -> None:
    from uhlm_edge.models.catalogue import Entry

    assert isinstance(entry, Entry)
    assert parse_name(entry.name).repo == entry.repo
    assert parse_name(entry.source).repo == entry.source
    assert "Q4_K_M" in entry.sizes
    assert set(entry.sha256) <= set(entry.sizes)
    assert all(len(digest) == 64 for digest in entry.sha256.values())
    assert entry.revision is None or len(entry.revision) == 40
    bits = 8 * entry.sizes["Q4_K_M"] / entry.parameters
    assert 4.5 < bits < 8  # small models have large tables of embeddings


@pytest.mark.parametrize(
    ("text", "repo", "type_"),
    [
        ("qwen2.5-0.5b", "bartowski/Qwen2.5-0.5B-Instruct-GGUF", None),
        ("Qwen2.5-0.5B:q8_0", "bartowski/Qwen2.5-0.5B-Instruct-GGUF", "Q8_0"),
        (" owner/repo.x:Q4_K_M ", "owner/repo.x", "Q4_K_M"),
        ("qwen2.5-0.5b:safetensors", "Qwen/Qwen2.5-0.5B-Instruct", "SAFETENSORS"),
    ],
)
def test_names_are_read(text: str, repo: str, type_: str | None) -> None:
    name = parse_name(text)
    assert (name.repo, name.type) == (repo, type_)


@pytest.mark.parametrize("text", ["", "x", "a/b/c", "../x", "/a/b", "a/..", "a b/c", "a/b\nc"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="OWNER/REPO"):
        parse_name(text)


@pytest.mark.parametrize(
    ("file", "type_"),
    [
        ("tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf", "Q4_K_M"),
        ("qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf", "Q4_K_M"),
        ("Llama-3.2-1B-Instruct-f16.gguf", "F16"),
        ("gemma-3-270m-it-UD-IQ2_XXS.gguf", "IQ2_XXS"),
        ("UD-Q4_K_XL/model-UD-Q4_K_XL.gguf", "Q4_K_XL"),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
        ("model.gguf", None),
        ("bf16.gguf", "BF16"),
    ],
)
def test_the_type_is_read_from_the_file_name(file: str, type_: str | None) -> None:
    assert type_of(file) == type_


def test_the_usual_type_is_preferred() -> None:
    assert preferred(["Q2_K", "Q8_0", "Q4_K_M"]) == "Q4_K_M"
    assert preferred(["IQ2_XXS"]) == "IQ2_XXS"
    assert preferred(["IQ2_XXS", "IQ1_S"]) is None
    assert preferred([]) is None
