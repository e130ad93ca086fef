"""Quantisation: exact predictions, whole files or none, importance matrices, one command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from uhlm_edge.common.errors import DataError, ModelError, ResourceError, UhlmError, UsageError
from uhlm_edge.lm.engines.llama import LlamaEngine
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.lm.gguf.check import check
from uhlm_edge.quantize import command
from uhlm_edge.quantize.convert.folder import convert
from uhlm_edge.quantize.imatrix.collect import collect_imatrix
from uhlm_edge.quantize.imatrix.file import Imatrix, load_imatrix, save_imatrix
from uhlm_edge.quantize.imatrix.llama_ggml import find_layout
from uhlm_edge.quantize.llama_quantize import predict, quantize
from uhlm_edge.quantize.pipeline import Listener, PlannedFile, QuantizeRequest, prepare
from uhlm_edge.quantize.quality.samples import BUILT_IN
from uhlm_edge.quantize.quant_types import NEEDS_IMATRIX, QUANT_TYPES, require_types

from .tiny_models import Folder, ids_of, make


def blocks(layers: int = 2) -> Folder:
    """Rows of 256 weights, which all types fit."""
    return make("llama", width=256, hidden=256, heads=4, head_dim=64, layers=layers, tied=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blocks().write(tmp_path_factory.mktemp("src") / "tiny")


@pytest.fixture(scope="module")
def original(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "tiny.F16.gguf"
    convert(folder, path)
    return path


@pytest.fixture(scope="module")
def matrix(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("matrix") / "tiny.imatrix.gguf"
    texts = [ids_of(blocks(), 40, seed) for seed in range(4)]
    found, chunks = collect_imatrix(original, texts, threads=1)
    save_imatrix(found, path, ["texts"], chunks, 512)
    return path


def left(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir())


def test_predicted_sizes_are_the_sizes_written(
    original: Path, matrix: Path, tmp_path: Path
) -> None:
    """With a matrix too, where llama.cpp mixes other types."""
    types = ["Q4_K_M", "Q2_K_S"]
    for name, guess in zip(types, predict(original, types, True), strict=True):
        out = tmp_path / f"{name}.gguf"
        quantize(original, out, name, matrix, threads=1)
        assert out.stat().st_size == guess.nbytes
        assert check(out).file_type == name


def test_types_that_need_a_matrix_are_those_llama_cpp_refuses(original: Path) -> None:
    """A prediction is made for all types; only those in the list ask for a matrix."""
    for name in sorted(NEEDS_IMATRIX):
        with pytest.raises(UsageError, match=f"{name} needs an importance matrix"):
            require_types(["Q8_0", name], has_imatrix=False)
    assert require_types(sorted(NEEDS_IMATRIX), has_imatrix=True) == sorted(NEEDS_IMATRIX)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(QUANT_TYPES))
def test_every_type_is_made_or_asks_for_a_matrix(name: str, original: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    if name in NEEDS_IMATRIX:
        with pytest.raises(ModelError, match="needs an importance matrix"):
            quantize(original, out, name, threads=1)
        assert left(tmp_path) == []
    else:
        quantize(original, out, name, threads=1)
        assert check(out).file_type == name


def test_rows_that_do_not_fit_are_counted_before(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    convert(make("llama", width=96, hidden=96).write(tmp_path / "hf"), path)
    (guess,) = predict(path, ["Q4_K_M"])
    assert guess.fallbacks > 0
    quantize(path, tmp_path / "q.gguf", "Q4_K_M", threads=1)
    assert (tmp_path / "q.gguf").stat().st_size == guess.nbytes


def test_what_is_quantised_is_not_quantised_again(original: Path, tmp_path: Path) -> None:
    quantize(original, tmp_path / "a.gguf", "Q4_0", threads=1)
    with pytest.raises(ModelError, match="is quantised already"):
        quantize(tmp_path / "a.gguf", tmp_path / "b.gguf", "Q8_0", threads=1)
    with pytest.raises(ModelError, match="is quantised already"):
        prepare(QuantizeRequest(tmp_path / "a.gguf", ["Q8_0"], out=tmp_path))
    assert left(tmp_path) == ["a.gguf"]


def test_an_interrupted_quantisation_leaves_nothing(original: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(original, tmp_path / "m.gguf", "Q4_K_M", threads=1, progress=stop)
    assert left(tmp_path) == []


def test_the_layout_of_tensors_is_found_not_assumed() -> None:
    layout = find_layout()
    assert len({layout.sizes, layout.strides, layout.operands}) == 3
    assert layout.strides == layout.sizes + 32


def test_the_matrix_holds_the_squares_of_what_enters_a_weight(original: Path, matrix: Path) -> None:
    """The input of the first layer's queries is known without running it: a normed embedding."""
    weights = blocks().weights
    texts = [ids_of(blocks(), 40, seed) for seed in range(4)]
    rows = weights["model.embed_tokens.weight"][np.concatenate(texts)]
    x = rows.astype(np.float16).astype(np.float64)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    x = x * weights["model.layers.0.input_layernorm.weight"]
    found = load_imatrix(matrix)
    assert found.counts["blk.0.attn_q.weight"] == 160
    np.testing.assert_allclose(found.sums["blk.0.attn_q.weight"], (x**2).sum(0), rtol=1e-4)
    assert set(found.counts.values()) == {160}  # the last layer too
    assert len(found.sums) == 2 * 7


def test_a_matrix_survives_its_file(tmp_path: Path) -> None:
    before = Imatrix(
        {"blk.0.attn_q.weight": np.arange(5, dtype=np.float32)}, {"blk.0.attn_q.weight": 3}
    )
    save_imatrix(before, tmp_path / "m.gguf", ["a", "b"], 1, 512)
    after = load_imatrix(tmp_path / "m.gguf")
    assert after.counts == before.counts
    np.testing.assert_array_equal(
        after.importance()["blk.0.attn_q.weight"], np.arange(5, dtype=np.float32) / 3
    )
    header = check(tmp_path / "m.gguf")
    assert header.text("general.type") == "imatrix"
    assert [t.name for t in header.tensors] == [
        "blk.0.attn_q.weight.in_sum2",
        "blk.0.attn_q.weight.counts",
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_a_matrix_that_is_no_sum_of_squares_is_refused(value: float, tmp_path: Path) -> None:
    bad = Imatrix({"w": np.array([1, value], dtype=np.float32)}, {"w": 3})
    save_imatrix(bad, tmp_path / "m.gguf", [], 1, 512)
    with pytest.raises(ModelError, match="not a sum of squares"):
        load_imatrix(tmp_path / "m.gguf")


def test_a_model_is_no_matrix(original: Path) -> None:
    with pytest.raises(ModelError, match="is not an importance matrix"):
        load_imatrix(original)


def test_a_matrix_needs_text(original: Path) -> None:
    with pytest.raises(DataError, match="needs text"):
        collect_imatrix(original, [])


def test_a_matrix_moves_the_error_to_where_it_costs_less(
    original: Path, matrix: Path, tmp_path: Path
) -> None:
    quantize(original, tmp_path / "plain.gguf", "Q2_K", threads=1)
    quantize(original, tmp_path / "weighted.gguf", "Q2_K", matrix, threads=1)
    ids = ids_of(blocks(), 40, 0)
    options = EngineOptions(n_threads=1, n_threads_batch=1)
    rows = []
    for path in (original, tmp_path / "plain.gguf", tmp_path / "weighted.gguf"):
        engine = LlamaEngine(path, options, max_rows=40)
        rows.append(engine.eval(ids, rows=40).copy())
        engine.close()
    plain, weighted = (float(np.square(row - rows[0]).mean()) for row in rows[1:])
    assert weighted < plain


def test_one_command_makes_several_types_and_leaves_nothing_else(
    folder: Path, tmp_path: Path
) -> None:
    planned: list[PlannedFile] = []
    request = QuantizeRequest(
        folder, ["q4_k_m", "F16", "Q2_K_S"], tmp_path, prompts=BUILT_IN[:3], threads=1
    )
    prepared = prepare(request, Listener(planned.extend))
    names = ["tiny.F16.gguf", "tiny.Q2_K_S.gguf", "tiny.Q4_K_M.gguf", "tiny.imatrix.gguf"]
    assert left(tmp_path) == names
    assert [path.stat().st_size for path in prepared.files] == [file.nbytes for file in planned]


def test_a_gguf_is_a_source_too(original: Path, tmp_path: Path) -> None:
    prepared = prepare(QuantizeRequest(original, ["Q8_0"], tmp_path, threads=1))
    assert [path.name for path in prepared.files] == ["tiny.Q8_0.gguf"]


def test_unquantised_types_lose_nothing_to_the_one_between(tmp_path: Path) -> None:
    """F32 is made from the folder, not from the F16 that quantisation starts from."""
    folder = blocks(1)
    src = folder.write(tmp_path / "tiny")
    prepare(QuantizeRequest(src, ["F32"], tmp_path, threads=1))
    convert(src, tmp_path / "direct.gguf", "F32")
    assert (tmp_path / "tiny.F32.gguf").read_bytes() == (tmp_path / "direct.gguf").read_bytes()


def test_the_disk_is_asked_for_everything_at_once(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="are needed"):
        prepare(QuantizeRequest(folder, ["Q8_0"], tmp_path), free=lambda path: 70_000_000)
    assert left(tmp_path) == []


def test_an_unknown_type_lists_those_known(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Q4_X is no type known here; known are F32, F16"):
        prepare(QuantizeRequest(folder, ["Q4_X"], tmp_path))


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(command.quantize)
    app.callback()(lambda: None)
    return app


def test_the_command_prints_paths_on_stdout_and_sizes_on_stderr(
    app: typer.Typer, folder: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(
        app, ["quantize", str(folder), "-t", "Q4_0", "--out", str(tmp_path), "--threads", "1"]
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(tmp_path / "tiny.Q4_0.gguf")]
    assert "tiny.Q4_0.gguf: " in result.stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["./nowhere"], "there is no such file"),
        (["SRC", "-t", "IQ1_S"], "needs an importance matrix"),
        (["SRC", "--cloud", "x.gguf"], "are for the report"),
        (["SRC", "--prompts", "a.txt", "--imatrix", "b.gguf"], "give one"),
        (["SRC", "--dtype", "Q8_0"], "no type to start from"),
    ],
)
def test_wrong_use_ends_with_2(
    arguments: list[str], error: str, app: typer.Typer, folder: Path
) -> None:
    arguments = [str(folder) if a == "SRC" else a for a in arguments]
    result = CliRunner().invoke(app, ["quantize", *arguments])
    assert isinstance(result.exception, UhlmError)
    assert result.exception.exit_code == 2
    assert error in str(result.exception)


def test_a_name_is_pulled_first(
    app: typer.Typer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def pull(name: str, type_: str | None) -> SimpleNamespace:
        asked.append((name, type_))
        return SimpleNamespace(stored=SimpleNamespace(path=folder))

    monkeypatch.setattr("uhlm_edge.models.hub.pull", pull)
    arguments = ["quantize", "owner/name", "-t", "F16", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert asked == [("owner/name", "safetensors")]
    assert left(tmp_path) == ["tiny.F16.gguf"]


_RUN = """
import sys, typer
from uhlm_edge.quantize.command import quantize
app = typer.Typer()
app.command()(quantize)
app.callback()(lambda: None)
app()
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough to be stopped in the middle."""
    made = make("llama", width=1024, hidden=1024, heads=16, head_dim=64, layers=2, tied=True)
    return made.write(tmp_path_factory.mktemp("src") / "wide")


def stop(number: signal.Signals, src: Path, out: Path) -> None:
    """Stop a run while it quantises."""
    command = [sys.executable, "-c", _RUN, "quantize", str(src), "-t", "IQ4_XS", "-t", "Q2_K"]
    with subprocess.Popen([*command, "--out", str(out), "--threads", "1"]) as process:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if any(out.glob(".wide.IQ4_XS*.part")):
                break
            time.sleep(0.01)  # to look all the time takes the time of what is looked at
        assert process.poll() is None, "it ended before it could be stopped"
        process.send_signal(number)
        assert process.wait(30) != 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_no_half_file(
    number: signal.Signals, wide: Path, tmp_path: Path
) -> None:
    stop(number, wide, tmp_path)
    assert left(tmp_path) == []


@pytest.mark.slow
def test_what_a_killed_run_left_is_gone_after_the_next(wide: Path, tmp_path: Path) -> None:
    stop(signal.SIGKILL, wide, tmp_path)
    assert any(name.endswith(".part") for name in left(tmp_path))
    prepare(QuantizeRequest(wide, ["Q8_0"], tmp_path, threads=1))
    assert left(tmp_path) == ["wide.Q8_0.gguf"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(path)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk needs root")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full_says_so(folder: Path, original: Path, small_disk: Path) -> None:
    for make_file in (
        lambda: convert(folder, small_disk / "m.gguf", "F32", free=lambda path: 1 << 40),
        lambda: quantize(original, small_disk / "m.gguf", "F32", threads=1),
    ):
        with pytest.raises(ResourceError, match="disk is full"):
            make_file()
        assert left(small_disk) == []
