"""Random-weight models: right dimensions, finite numbers, and never taken for the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from uhlm_edge.bench.speed import shapes
from uhlm_edge.bench.speed.blocks import LAYOUTS, SIGMA, random_tile
from uhlm_edge.bench.speed.shapes import SHAPES, Shape, cache_folder, make_shape
from uhlm_edge.common.errors import ResourceError, UsageError
from uhlm_edge.lm.engines.llama import LlamaEngine
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.lm.gguf.check import check
from uhlm_edge.lm.gguf.types import TENSOR_TYPES

SMALL = {
    "llama": Shape("small", "llama", 2, 256, 4, 2, 64, 512, 400, 64, 1e4, 1e-5, False, None, True),
    "qwen2": Shape("small", "qwen2", 2, 128, 2, 1, 64, 256, 400, 64, 1e6, 1e-6, True),
    "gemma3": Shape("small", "gemma3", 6, 256, 2, 1, 128, 512, 400, 64, 1e6, 1e-6, True, 32),
}

# Parameters as their makers publish them, in millions.
PUBLISHED = {
    "llama-2-7b": 6738.4,
    "tinyllama-1.1b": 1100,
    "qwen2.5-0.5b": 494,
    "llama-3.2-1b": 1236,
    "smollm2-135m": 134.5,
    "gemma-3-270m": 268,
}


def test_the_shapes_have_the_published_number_of_parameters() -> None:
    assert SHAPES.keys() == PUBLISHED.keys()
    for name, millions in PUBLISHED.items():
        assert SHAPES[name].parameters / 1e6 == pytest.approx(millions, rel=2e-3), name


@pytest.mark.parametrize("kind", [*LAYOUTS, "F16", "BF16"])
def test_random_blocks_are_whole_and_decode_to_small_finite_numbers(kind: str) -> None:
    quants = pytest.importorskip("gguf.quants")
    constants = pytest.importorskip("gguf.constants")
    tile = random_tile(kind, 1 << 16)
    number = next(n for n, row in TENSOR_TYPES.items() if row.name == kind)
    assert len(tile) % TENSOR_TYPES[number].n_bytes == 0
    values = quants.dequantize(
        np.frombuffer(tile, dtype=np.uint8), constants.GGMLQuantizationType(number)
    )
    assert np.isfinite(values).all()
    assert 0.5 * SIGMA < values.std() < 2.5 * SIGMA
    assert abs(values.mean()) < 0.5 * SIGMA


@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("quantisation", ["Q4_K_M", "Q8_0"])
def test_a_model_of_each_architecture_loads_decodes_and_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, quantisation: str
) -> None:
    monkeypatch.setitem(SHAPES, "small", SMALL[arch])
    path = make_shape("small", quantisation, tmp_path)
    header = check(path)
    assert header.architecture == arch
    assert header.file_type == quantisation
    assert header.parameters == SMALL[arch].parameters
    assert "RANDOM WEIGHTS" in (header.text("general.name") or "")
    assert "random-weights" in path.name
    engine = LlamaEngine(path, EngineOptions(n_threads=1, n_threads_batch=1))
    try:
        assert len(engine.vocab) == 400
        assert engine.n_ctx == 64
        row = engine.eval(list(range(300, 340))).copy()
        assert np.isfinite(row).all()
        assert row.std() > 0
        engine.truncate(39)
        again = engine.eval([339])
        assert np.isfinite(again).all()
    finally:
        engine.close()
    assert list(tmp_path.iterdir()) == [path]
    stamp = path.stat().st_mtime_ns
    assert make_shape("small", quantisation, tmp_path) == path
    assert path.stat().st_mtime_ns == stamp  # the second time it is there already


def test_what_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "small", SMALL["llama"])

    def interrupted(source: Path, target: Path, quantisation: str) -> None:
        assert source.exists()
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_shape("small", folder=tmp_path, quantiser=interrupted)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, need: int) -> None:
        assert need > 494e6
        raise ResourceError("no room")

    monkeypatch.setattr(shapes, "require_space", full)
    with pytest.raises(ResourceError):
        make_shape("qwen2.5-0.5b", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unknown_names_are_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tinyllama-1\.1b, llama-2-7b"):
        make_shape("gpt-5", folder=tmp_path)
    with pytest.raises(UsageError, match="try Q4_K_M"):
        make_shape("smollm2-135m", "Q9_Z", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_cache_follows_the_users_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "uhlm-edge" / "shapes"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "uhlm-edge" / "shapes"
