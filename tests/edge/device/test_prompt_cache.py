"""A restart finds what was read before, and nothing damaged or foreign reaches the model."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from uhlm_edge.edge.device.prompt_cache import PromptCache
from uhlm_edge.lm.engines.llama import LlamaEngine
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.models import shipped

from ...fakes import FakeEngine

LONG = [(7 * i) % 11 + 1 for i in range(150)]
OTHER = [(5 * i) % 7 + 1 for i in range(120)]
MANY = 1 << 20


class Saving(FakeEngine):
    """A fake engine whose keys and values are its ids."""

    def save(self) -> bytes:
        return struct.pack(f"<{len(self.ids)}I", *self.ids)

    def load(self, state: bytes, n: int) -> None:
        assert not self.ids
        self.ids = list(struct.unpack(f"<{n}I", state))


def cache(folder: Path, limit: int = MANY, key: str = "a model") -> PromptCache:
    return PromptCache(Saving(), folder, limit, key)


def read_once(folder: Path, ids: list[int], limit: int = MANY) -> None:
    with_text = cache(folder, limit)
    with_text.eval(ids)
    with_text.close()


def read_again(made: PromptCache, ids: list[int]) -> list[int]:
    """Read `ids`; returns the widths of the passes that the engine made."""
    made.eval(ids)
    engine = made._engine
    assert isinstance(engine, Saving)
    assert engine.ids == ids
    return engine.widths


def test_a_restart_reads_only_what_is_new(tmp_path: Path) -> None:
    read_once(tmp_path, LONG)
    assert read_again(cache(tmp_path), [*LONG, 3, 2]) == [2]
    assert read_again(cache(tmp_path), LONG) == [1]  # the row after the last id is not kept
    assert read_again(cache(tmp_path), [*LONG[:100], 9, 9]) == [2]
    assert read_again(cache(tmp_path), OTHER) == [len(OTHER)]


def test_a_conversation_without_its_oldest_turns_is_kept_as_it_is_then(
    tmp_path: Path,
) -> None:
    made = cache(tmp_path)
    made.eval([*OTHER, *LONG[:80]])
    assert made.cut(40, 80)
    made.close()
    assert read_again(cache(tmp_path), [*OTHER[:40], *LONG[:80], 3]) == [1]


def test_the_rows_are_those_of_a_text_that_was_read_whole(tmp_path: Path) -> None:
    read_once(tmp_path, LONG)
    ids = [*LONG, 4, 5, 6]
    found, whole = cache(tmp_path), cache(tmp_path / "empty")
    assert (found.eval(ids, 3) == whole.eval(ids, 3)).all()
    assert (found.restored, whole.restored) == (150, 0)


def test_a_conversation_that_is_left_is_found_again(tmp_path: Path) -> None:
    one = cache(tmp_path)
    one.eval(LONG)
    one.truncate(0)
    one.eval(OTHER)
    one.truncate(0)
    assert read_again(one, [*LONG, 1])[-1] == 1


def test_a_flipped_byte_another_model_and_a_foreign_file_are_never_loaded(tmp_path: Path) -> None:
    read_once(tmp_path, LONG)
    (file,) = tmp_path.glob("*.prompt")
    assert read_again(cache(tmp_path, key="another"), LONG) == [150]
    file.chmod(0o666)
    assert read_again(cache(tmp_path), LONG) == [150]
    file.chmod(0o600)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert read_again(cache(tmp_path), LONG) == [150]
    assert not file.exists()
    file.write_bytes(content[:20])
    assert read_again(cache(tmp_path), LONG) == [150]


def test_files_are_the_owner_s_alone_and_stay_below_the_limit(tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    read_once(folder, LONG)
    (size,) = (f.stat().st_size for f in folder.glob("*"))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(f.stat().st_mode & 0o777 == 0o600 for f in folder.glob("*"))
    read_once(folder, OTHER, limit=size + 100)
    assert sum(f.stat().st_size for f in folder.glob("*")) <= size + 100
    read_once(tmp_path / "none", LONG, limit=10)
    assert not (tmp_path / "none").exists()


def test_a_disk_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.touch()
    read_once(blocked, LONG)
    assert read_again(cache(blocked), LONG) == [150]


@pytest.mark.parametrize("n", [400, 900])
def test_a_real_model_writes_the_same_after_a_restart_as_without_one(
    tmp_path: Path, n: int
) -> None:
    options = EngineOptions(n_threads=1, n_threads_batch=1, n_ctx=1024)
    ids = [(37 * i) % 4000 + 300 for i in range(n)]

    def start() -> PromptCache:
        engine = LlamaEngine(shipped.path_of("demo-slm"), options)
        return PromptCache(engine, tmp_path, 64 << 20, "demo-slm")

    def write(engine: PromptCache, text: list[int]) -> list[int]:
        token, written = int(engine.eval(text)[-1].argmax()), []
        for _ in range(12):
            written.append(token)
            token = int(engine.eval([token])[-1].argmax())
        return written

    engine = start()
    engine.eval(ids)
    engine.truncate(n)
    expected = write(engine, [5, 6, 7])
    engine.truncate(n)
    engine.close()
    restarted = start()
    assert write(restarted, [*ids, 5, 6, 7]) == expected
    assert restarted.restored == n
    restarted.close()
