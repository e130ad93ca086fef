"""The shipped pair: found, whole, and refused when it is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from uhlm_edge.common.errors import ModelError
from uhlm_edge.models import shipped as models


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the device's model, in a folder that stands in for the shipped one."""
    monkeypatch.setattr(models, "FOLDER", tmp_path.resolve())
    return Path(shutil.copy(Path(models.__file__).parent / "demo-slm.Q4_K_M.gguf", tmp_path))


@pytest.mark.parametrize("name", models.SHIPPED)
def test_the_shipped_models_are_whole(name: str) -> None:
    path = models.path_of(name)
    assert path.stat().st_size == models.SHIPPED[name].size
    models.verify(path)


@pytest.mark.parametrize("shipped", models.SHIPPED.values(), ids=lambda shipped: shipped.file)
def test_the_card_gives_the_same_checksums(shipped: models.Shipped) -> None:
    card = (models.FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"{shipped.sha256}  {shipped.file}\n" in card
    assert f"{shipped.size:,}" in card


def test_nothing_is_shipped_without_a_checksum() -> None:
    listed = {shipped.file for shipped in models.SHIPPED.values()}
    assert {path.name for path in models.FOLDER.glob("*.gguf")} == listed


def test_a_whole_copy_passes(copy: Path) -> None:
    models.verify(copy)


@pytest.mark.parametrize("at", [0, 1_000_000, -1])
def test_a_flipped_bit_is_refused(copy: Path, at: int) -> None:
    content = bytearray(copy.read_bytes())
    content[at] ^= 1
    copy.write_bytes(content)
    with pytest.raises(ModelError, match=r"demo-slm.*damaged.*reinstall"):
        models.verify(copy)


def test_a_truncated_file_is_refused(copy: Path) -> None:
    copy.write_bytes(copy.read_bytes()[:-1])
    with pytest.raises(ModelError, match="damaged"):
        models.verify(copy)


def test_a_missing_file_is_refused(copy: Path) -> None:
    copy.unlink()
    with pytest.raises(ModelError, match="No such file"):
        models.verify(copy)


def test_a_path_that_only_looks_different_is_checked(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy.write_bytes(b"GGUF")
    monkeypatch.chdir(copy.parent)
    (copy.parent / "folder").mkdir()
    link = copy.parent / "link"
    link.symlink_to(copy.parent)
    for path in (Path(copy.name), copy.parent / "folder" / ".." / copy.name, link / copy.name):
        with pytest.raises(ModelError, match="damaged"):
            models.verify(path)


def test_a_file_of_one_s_own_passes_whatever_its_name(tmp_path: Path) -> None:
    own = tmp_path / "demo-slm.Q4_K_M.gguf"
    own.write_bytes(b"GGUF, but made by somebody else")
    models.verify(own)
    models.verify(tmp_path / "none.gguf")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"'demo-xl'.*demo-slm or demo-llm"):
        models.path_of("demo-xl")
