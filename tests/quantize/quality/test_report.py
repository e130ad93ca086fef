"""The quality report: its mathematics by enumeration, its files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from uhlm_edge.common.errors import DataError, UsageError, VocabularyMismatch
from uhlm_edge.lm.engines.llama import LlamaEngine
from uhlm_edge.quantize.convert.folder import convert
from uhlm_edge.quantize.llama_quantize import quantize
from uhlm_edge.quantize.quality.measure import Tally, expected_uncertainty, log_softmax
from uhlm_edge.quantize.quality.plot import plot_report
from uhlm_edge.quantize.quality.report import Report, measure_quality
from uhlm_edge.quantize.quality.samples import BUILT_IN, Sample, encode, read_samples

from ..tiny_models import make


def softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    e: NDArray[np.float64] = np.exp(z - z.max())
    return e / float(e.sum())


def test_each_measure_is_its_definition() -> None:
    random = np.random.default_rng(0)
    original, quantised, cloud = random.normal(0, 3, (3, 50, 7)).astype(np.float32)
    targets = random.integers(0, 7, 50)
    uniforms = random.random(50)
    tally = Tally()
    tally.add(original, quantised, targets, uniforms, cloud)
    kl, loss, same, accept, beta = [], [], [], [], []
    for o, q, c, t, u in zip(original, quantised, cloud, targets, uniforms, strict=True):
        po, pq, pc = softmax(o.astype(float)), softmax(q.astype(float)), softmax(c.astype(float))
        kl.append(sum(a * np.log(a / b) for a, b in zip(po, pq, strict=True)))
        loss.append(-np.log(pq[t]))
        same.append(o.argmax() == q.argmax())
        accept.append(np.minimum(pc, pq).sum())
        draft = next(i for i in range(7) if pq[: i + 1].sum() > u)
        beta.append(max(0, 1 - pc[draft] / pq[draft]))
    assert tally.kl_mean == pytest.approx(np.mean(kl))
    assert tally.kl_p99 == pytest.approx(np.percentile(kl, 99))
    assert tally.perplexity == pytest.approx(np.exp(np.mean(loss)))
    assert tally.top1 == pytest.approx(np.mean(same))
    assert tally.acceptance_mean == pytest.approx(np.mean(accept))
    assert tally.beta == pytest.approx(beta)
    assert tally.correlation == pytest.approx(np.corrcoef(tally.u, beta)[0, 1])


def test_uncertainty_is_the_mean_of_the_published_draws() -> None:
    rows = np.random.default_rng(1).normal(0, 2, (4, 9)).astype(np.float32)
    drafts = np.array([0, 3, 5, 8])
    theta = np.random.default_rng(2).uniform(0, 2, 40_000)
    for row, draft, u in zip(rows, drafts, expected_uncertainty(rows, drafts), strict=True):
        scaled = row.astype(float)[None] / theta[:, None]
        same = np.exp(scaled - scaled.max(1, keepdims=True))
        same /= same.sum(1, keepdims=True)
        assert u == pytest.approx(1 - same[:, draft].mean(), abs=0.01)


def test_a_model_against_itself_is_perfect() -> None:
    rows = np.random.default_rng(0).normal(0, 3, (20, 11)).astype(np.float32)
    tally = Tally()
    tally.add(rows, rows, np.zeros(20, np.intp), np.full(20, 0.5), rows)
    assert (tally.kl_mean, tally.top1) == (0, 1)
    assert tally.acceptance_mean == pytest.approx(1)
    assert tally.correlation is None  # beta never varies


def test_wide_vocabularies_are_taken_in_blocks() -> None:
    rows = np.random.default_rng(0).normal(0, 3, (9, 600_000)).astype(np.float32)
    tally = Tally()
    tally.add(rows, rows, np.zeros(9, np.intp), np.zeros(9))
    assert tally.positions == 9
    assert np.exp(log_softmax(rows[:1])).sum() == pytest.approx(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("report")
    shape: dict[str, Any] = {"width": 256, "hidden": 256, "head_dim": 64, "layers": 1, "tied": True}
    for name, seed in (("device", 0), ("cloud", 1)):
        convert(make("llama", seed=seed, **shape).write(base / name), base / f"{name}.F16.gguf")
    other = make("llama", rule="gpt-2", **shape).write(base / "other")
    convert(other, base / "other.F16.gguf")
    quantize(base / "device.F16.gguf", base / "device.Q2_K.gguf", "Q2_K", threads=1)
    return {p.name.removesuffix(".gguf"): p for p in base.glob("*.gguf")}


@pytest.fixture(scope="module")
def report(files: dict[str, Path]) -> Report:
    return measure_quality(
        files["device.F16"],
        [files["device.Q2_K"]],
        BUILT_IN[:4],
        "four prompts",
        files["cloud.F16"],
        threads=1,
    )


def test_the_report_has_the_original_first_and_says_what_was_lost(report: Report) -> None:
    first, second = report.rows
    assert (first.name, first.kl_mean, first.top1) == ("device.F16.gguf", 0, 1)
    assert second.kl_mean > 0
    assert second.nbytes < first.nbytes
    assert second.bits_per_weight < first.bits_per_weight
    assert all(0 < (row.acceptance or 0) < 1 for row in report.rows)
    assert all(row.tokens_per_s > 0 for row in report.rows)


def test_the_report_is_a_table_json_and_a_picture(report: Report, tmp_path: Path) -> None:
    console = Console(record=True, width=200)
    console.print(report.table())
    assert "device.Q2_K.gguf" in console.export_text()
    report.write_json(tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["v"] == 1
    assert content["rows"][1]["kl_mean"] == report.rows[1].kl_mean
    pytest.importorskip("matplotlib")
    plot_report(report, tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_the_original_keeps_the_name_it_is_given(files: dict[str, Path]) -> None:
    report = measure_quality(
        files["device.F16"], [], BUILT_IN[:1], "prompts", threads=1, name="made.F16.gguf"
    )
    assert (report.original, report.rows[0].name) == ("made.F16.gguf", "made.F16.gguf")


def test_the_same_text_gives_the_same_numbers(report: Report, files: dict[str, Path]) -> None:
    again = measure_quality(
        files["device.F16"],
        [files["device.Q2_K"]],
        BUILT_IN[:4],
        "four prompts",
        files["cloud.F16"],
        threads=1,
    )
    for before, after in zip(report.rows, again.rows, strict=True):
        assert before.kl_mean == pytest.approx(after.kl_mean, rel=1e-3, abs=1e-12)
        assert before.perplexity == pytest.approx(after.perplexity, rel=1e-3)


def test_without_a_cloud_model_the_pair_is_not_measured(files: dict[str, Path]) -> None:
    samples = [Sample(reply="a plain text about nothing much")]
    report = measure_quality(files["device.F16"], [], samples, "text", threads=1)
    assert (report.rows[0].acceptance, report.rows[0].correlation) == (None, None)


def test_models_of_another_vocabulary_are_refused(files: dict[str, Path]) -> None:
    arguments = (BUILT_IN[:1], "prompts")
    with pytest.raises(VocabularyMismatch, match=r"other\.F16"):
        measure_quality(files["device.F16"], [], *arguments, files["other.F16"], threads=1)
    with pytest.raises(UsageError, match="another vocabulary"):
        measure_quality(files["device.F16"], [files["other.F16"]], *arguments, threads=1)


def test_a_plain_text_begins_as_the_model_wants_it(files: dict[str, Path]) -> None:
    engine = LlamaEngine(files["device.F16"])
    sample = Sample(reply="the quick brown fox jumps " * 200)
    with_bos, without = (encode([sample], engine.vocab, bos) for bos in (True, False))
    (bos,) = engine.vocab.tokenize(engine.vocab.bos, special=True)
    engine.close()
    assert len(with_bos) > 1
    assert all(passage.ids[0] == bos for passage in with_bos)
    assert max(len(passage.ids) for passage in with_bos) == 512
    assert sum((p.ids[1:] for p in with_bos), ()) == sum((p.ids for p in without), ())


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("{", r"x\.jsonl:2: not JSON"),
        ("[]", "not a JSON object"),
        ("{}", 'give "prompt" or "messages"'),
        ('{"messages": [{"role": 1}]}', "message 1: role must be one of"),
    ],
)
def test_a_bad_line_is_named(line: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "a"}\n' + line + "\n")
    with pytest.raises(DataError, match=match):
        read_samples(path)


def test_samples_are_read_from_every_form(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = [
        {"prompt": "a"},
        {"text": "b"},
        {"messages": [{"role": "user", "content": "c"}], "answer": "d"},
        {"messages": [{"role": "user", "content": "e"}, {"role": "assistant", "content": "f"}]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    samples = read_samples(path)
    assert [sample.reply for sample in samples] == [None, "b", "d", "f"]
    assert [len(sample.messages) for sample in samples] == [1, 0, 1, 1]
    plain = tmp_path / "x.txt"
    plain.write_text("just text")
    assert read_samples(plain) == [Sample(reply="just text")]
    plain.write_text(" \n")
    with pytest.raises(DataError, match="is empty"):
        read_samples(plain)
