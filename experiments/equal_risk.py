"""Uploads at equal risk: the head beside u, on text that neither head nor thresholds have seen.

`python -m uhlm_edge.experiments.equal_risk CALIBRATION PROMPTS` runs the shipped pair in shadow
over the prompts, several replies and seeds, and prints how many tokens each score would upload at
the same risk (mean over all tokens of 1[skipped] beta), and what the shipped thresholds do.
Intervals are paired bootstraps over conversations; nothing is fitted or chosen here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibrate.scores import rate_at_risk
from ..calibrate.shadow import Replay, Setting, shadow_run
from ..common.prompts import read_prompts, shipped_prompts
from ..edge.policy.calibration import Calibration, load
from ..lm.engines.llama import LlamaEngine
from ..lm.engines.options import EngineOptions
from ..models.shipped import path_of
from .calibration_check import scores_of

Floats = NDArray[np.float64]
RISKS = (0.0001, 0.0002, 0.0003, 0.0006, 0.001, 0.002, 0.003, 0.01, 0.03)
_DRAWS = 1000
_PART = 60  # replies that a process makes before it takes the next


def compare(
    scores: Mapping[str, Floats], beta: Floats, cluster: NDArray[np.int64], draws: int = _DRAWS
) -> list[dict[str, Any]]:
    """For each risk, the upload rate of each score, and the head's less u's with 95 % intervals.

    Args:
        scores: by name, shapes (T,), high where rejection is expected.
        beta: rejection probabilities, shape (T,).
        cluster: the conversation of each token, shape (T,).
        draws: of the bootstrap.
    """
    _, number = np.unique(cluster, return_inverse=True)
    n = int(number.max()) + 1
    rng = np.random.default_rng(0)
    found = {name: rate_at_risk(score, beta, RISKS) for name, score in scores.items()}
    ranks = {name: np.unique(score, return_inverse=True)[1] for name, score in scores.items()}
    drawn: dict[str, Floats] = {name: np.empty((draws, len(RISKS))) for name in scores}
    for i in range(draws):
        counts = np.bincount(rng.integers(0, n, n), minlength=n)[number]
        for name, rank in ranks.items():
            drawn[name][i] = rate_at_risk(rank, beta, RISKS, counts)
    rows = []
    for i, risk in enumerate(RISKS):
        row: dict[str, Any] = {"risk": risk}
        for name, rates in found.items():
            row[name] = float(rates[i])
            row[f"{name}_ci"] = [float(x) for x in np.quantile(drawn[name][:, i], (0.025, 0.975))]
        for other in ("sampled u", "expected u", "entropy"):
            less = drawn["head"][:, i] - drawn[other][:, i]
            row[f"head - {other}"] = float(found["head"][i] - found[other][i])
            row[f"head - {other}_ci"] = [float(x) for x in np.quantile(less, (0.025, 0.975))]
        rows.append(row)
    return rows


def thresholds(
    calibration: Calibration, scores: Mapping[str, Floats], beta: Floats
) -> list[dict[str, Any]]:
    """Upload rate and risk at the thresholds of the calibration, of u and of the head."""
    told = {
        "sampled u": calibration.laws["sampled"].risk,
        "expected u": calibration.laws["expected"].risk,
        "head": calibration.head.risk if calibration.head is not None else None,
    }
    rows = []
    for name, threshold in told.items():
        if threshold is not None:
            skipped = scores[name] <= threshold + 1e-9
            rate, risk = float((~skipped).mean()), float((skipped * beta).mean())
            rows.append({"told_by": name, "threshold": threshold, "uploads": rate, "risk": risk})
    return rows


def _shadow_pool(prompts: Path, setting: Setting, jobs: int = 1) -> Iterator[Replay]:
    """All replies of a shadow run of the demo pair, made by `jobs` processes of two models each."""
    total = len(read_prompts(prompts)) * setting.replies
    parts = [(prompts, setting, begin) for begin in range(0, total, _PART)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for lines in pool.map(_part, parts):
            yield from map(Replay.from_json, lines)


def _part(task: tuple[Path, Setting, int]) -> list[str]:
    prompts, setting, begin = task
    options = EngineOptions(n_threads=1, n_threads_batch=1)
    with (
        closing(LlamaEngine(path_of("demo-slm"), options)) as device,
        closing(LlamaEngine(path_of("demo-llm"), options, max_rows=setting.max_tokens)) as cloud,
    ):
        made = shadow_run(device, cloud, read_prompts(prompts), setting, begin)
        return [replay.to_json() for replay in islice(made, _PART)]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = ("head", "sampled u", "expected u", "entropy", "oracle")
    lines = ["| risk | " + " | ".join(names) + " | head less sampled u | head less expected u |"]
    lines.append("|" + "---|" * (len(names) + 3))
    for row in rows:
        cells = [f"{row[name]:.4f}" for name in names]
        for other in ("sampled u", "expected u"):
            low, high = row[f"head - {other}_ci"]
            cells.append(f"{row[f'head - {other}']:+.4f} [{low:+.4f}, {high:+.4f}]")
        lines.append(f"| {row['risk']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("prompts", help="A file, or tasks-eval, dialogues-eval.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--replies", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="Replays as JSON lines, read again if there.")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    calibration = load(args.calibration)
    replays: list[Replay] = []
    if args.keep is not None and args.keep.exists():
        replays = [Replay.from_json(line) for line in args.keep.read_text().splitlines()]
    else:
        for seed in args.seeds:
            setting = Setting(
                calibration.sampler, calibration.wire_top, calibration.k, seed,
                calibration.max_tokens, args.replies,
            )  # fmt: skip
            replays += _shadow_pool(shipped_prompts(args.prompts), setting, args.jobs)
        if args.keep is not None:
            args.keep.write_text("".join(replay.to_json() + "\n" for replay in replays))
    beta = np.concatenate([replay.beta for replay in replays])
    cluster = np.repeat([r.conversation for r in replays], [len(r.ids) for r in replays])
    scores, _ = scores_of(calibration, args.calibration.parent, replays, beta)
    scores["oracle"] = beta
    rows = compare(scores, beta, cluster)
    told = thresholds(calibration, scores, beta)
    print(
        f"{len(np.unique(cluster))} conversations, {len(beta)} tokens; mean beta {beta.mean():.4f}"
    )
    print(_table(rows))
    for row in told:
        print(
            "{told_by}: threshold {threshold:.3f}, uploads {uploads:.4f}, risk {risk:.5f}".format(
                **row
            )
        )
    if args.out is not None:
        args.out.write_text(json.dumps({"equal_risk": rows, "thresholds": told}, indent=1) + "\n")


if __name__ == "__main__":
    _main()
