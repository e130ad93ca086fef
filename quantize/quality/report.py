"""The quality of quantised files against their original, and what they do to the pair.

Perplexity, divergence and agreement say how far a file is from the original. What counts for a
pair is whether the cloud model still accepts its drafts, and whether its uncertainty still tells
which ones will be rejected; so that is measured too.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...common.errors import DataError, UsageError
from ...common.files import atomic_output
from ...common.text import human_bytes, one_line
from ...lm.engines.llama import LlamaEngine
from ...lm.engines.options import EngineOptions
from ...lm.engines.protocol import Logits
from ...lm.vocabulary import require_same
from ..convert.writer import Progress
from .measure import Tally
from .samples import LONGEST, Passage, Sample, complete, encode

if TYPE_CHECKING:
    from rich.table import Table


_NUMBERS = ("size", "bits", "ppl", "KL", "KL p99", "top-1", "accept", "r(u, beta)", "tok/s")


@dataclass(frozen=True)
class FileQuality:
    """One file. KL in nats; acceptance and correlation are None without a cloud model."""

    name: str
    nbytes: int
    bits_per_weight: float
    perplexity: float
    kl_mean: float
    kl_p99: float
    top1: float
    acceptance: float | None
    correlation: float | None
    mean_u: float | None
    mean_beta: float | None
    tokens_per_s: float


@dataclass(frozen=True)
class Report:
    """All files measured on one text, the original first."""

    original: str
    cloud: str | None
    texts: str
    passages: int
    positions: int
    rows: tuple[FileQuality, ...]

    def write_json(self, path: Path) -> None:
        """One JSON object with `"v": 1`."""
        with atomic_output(path) as part:
            part.write_text(json.dumps({"v": 1, **asdict(self)}, indent=1) + "\n", "utf-8")

    def table(self) -> Table:
        """For a terminal."""
        from rich.table import Table

        title = f"against {self.original} on {self.texts}, {self.positions} positions"
        table = Table(title=one_line(title + (f"; pair with {self.cloud}" if self.cloud else "")))
        table.add_column("file")
        for title in _NUMBERS:
            table.add_column(title, justify="right")
        for row in self.rows:
            table.add_row(
                one_line(row.name),
                human_bytes(row.nbytes),
                f"{row.bits_per_weight:.2f}",
                f"{row.perplexity:.3f}",
                f"{row.kl_mean:.4f}",
                f"{row.kl_p99:.3f}",
                f"{row.top1:.3f}",
                *("-" if x is None else f"{x:.3f}" for x in (row.acceptance, row.correlation)),
                f"{row.tokens_per_s:.0f}",
            )
        return table


def measure_quality(
    original: Path,
    files: Sequence[Path],
    samples: Sequence[Sample],
    texts: str,
    cloud: Path | None = None,
    seed: int = 0,
    threads: int = 0,
    progress: Progress | None = None,
    name: str | None = None,
) -> Report:
    """Run texts through the original, each file and, if given, the cloud model.

    At most three models are in memory at once. Where a sample has no reply, the original writes
    one, and the same text is then used for all.

    Args:
        original: F32, F16 or BF16, the first row of the report.
        texts: what the samples are, for the report's title.
        name: what to call the original, if not by its file.
        progress: told the file at work, of how many, and its name.

    Raises:
        DataError: nothing is left to measure.
        UsageError: a file with another vocabulary.
        ModelError: a file is refused.
    """
    options = EngineOptions(
        n_ctx=LONGEST, n_batch=LONGEST, n_threads=threads, n_threads_batch=threads
    )
    title = name or original.name
    engines: list[LlamaEngine] = []
    try:
        base = _open(original, options, engines)
        pair = None if cloud is None else _open(cloud, options, engines)
        if pair is not None and cloud is not None:
            require_same(base.vocab.fingerprint, pair.vocab.fingerprint, title, cloud.name)
        random = np.random.default_rng(seed)
        bos = base.model.header.metadata.get("tokenizer.ggml.add_bos_token") is True
        passages = [complete(p, base, random) for p in encode(samples, base.vocab, bos)]
        passages = [p for p in passages if 0 < p.start < len(p.ids)]
        if not passages:
            raise DataError(f"{texts}: nothing is left to measure")
        rows: list[FileQuality] = []
        for n, path in enumerate([original, *files]):
            if progress is not None:
                progress(n, len(files) + 1, title if n == 0 else path.name)
            engine = base if n == 0 else _open(path, options, engines)
            if engine.vocab.fingerprint != base.vocab.fingerprint:
                raise UsageError(f"{path}: has another vocabulary than {title}")
            tally = _tally(base, engine, pair, passages, seed)
            found = _quality(path, engine, tally, passages)
            rows.append(replace(found, name=title) if n == 0 else found)
            if engine is not base:
                engines.pop().close()
        positions = sum(len(p.ids) - p.start for p in passages)
    finally:
        for engine in engines:
            engine.close()
    verifier = None if cloud is None else cloud.name
    return Report(title, verifier, texts, len(passages), positions, tuple(rows))


def _open(path: Path, options: EngineOptions, engines: list[LlamaEngine]) -> LlamaEngine:
    engines.append(LlamaEngine(path, options, max_rows=LONGEST))
    return engines[-1]


def _tally(
    base: LlamaEngine,
    engine: LlamaEngine,
    pair: LlamaEngine | None,
    passages: Sequence[Passage],
    seed: int,
) -> Tally:
    """Every passage through all models; the draws are the same for every file."""
    tally = Tally()
    random = np.random.default_rng([seed, 1])
    for passage in passages:
        inputs = passage.ids[:-1][: base.n_ctx]
        targets = np.array(passage.ids[passage.start : len(inputs) + 1], dtype=np.intp)
        count = len(targets)
        before = _rows(base, inputs, count)
        after = before if engine is base else _rows(engine, inputs, count)
        verdict = None if pair is None else _rows(pair, inputs, count)
        tally.add(before, after, targets, random.random(count), verdict)
    return tally


def _rows(engine: LlamaEngine, ids: Sequence[int], count: int) -> Logits:
    """Logits after each of the last `count` ids, a copy."""
    engine.truncate(0)
    rows: Logits = engine.eval(ids, rows=count).copy()
    return rows


def _quality(
    path: Path, engine: LlamaEngine, tally: Tally, passages: Sequence[Passage]
) -> FileQuality:
    header = engine.model.header
    weights = sum(tensor.n_bytes for tensor in header.tensors)
    return FileQuality(
        name=path.name, nbytes=path.stat().st_size,
        bits_per_weight=8 * weights / max(1, header.parameters), perplexity=tally.perplexity,
        kl_mean=tally.kl_mean, kl_p99=tally.kl_p99, top1=tally.top1,
        acceptance=tally.acceptance_mean, correlation=tally.correlation,
        mean_u=float(np.mean(tally.u)) if tally.u else None,
        mean_beta=float(np.mean(tally.beta)) if tally.beta else None,
        tokens_per_s=_speed(engine, passages[0].ids),
    )  # fmt: skip


def _speed(engine: LlamaEngine, ids: Sequence[int]) -> float:
    """Tokens per second of one at a time, from the median over 48 after a warm-up."""
    engine.truncate(0)
    times: list[float] = []
    for i in range(min(56, engine.n_ctx)):
        begin = time.perf_counter()
        engine.eval([ids[i % len(ids)]])
        times.append(time.perf_counter() - begin)
    return 1.0 / statistics.median(times[8:] or times)
