"""What a calibration is worth on text that it was not made on.

`python -m uhlm_edge.experiments.calibration_check CALIBRATION PROMPTS` runs the shipped pair in
shadow
over other prompts and prints the thresholds' upload rates and risks there, and how well head, u and
entropy tell what the LLM rejects. Lines and thresholds are those of the file; nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..calibrate.fit import fit_line
from ..calibrate.head import features
from ..calibrate.scores import auroc, calibration_error, risk_curve
from ..calibrate.shadow import Replay, Setting, shadow_run
from ..common.prompts import read_prompts
from ..edge.policy.calibration import Calibration, EstimatorName, load
from ..edge.policy.reward import FEATURES, N_FEATURES, RewardHead

Floats = NDArray[np.float64]
_RATES = (0.05, 0.2, 0.5)


def predict(path: Path, table: NDArray[np.float32]) -> Floats:
    """What an exported head gives for features of shape (T, N_FEATURES), shape (T,)."""
    head = RewardHead(path)
    return np.array([head.run(row) for row in table.reshape(-1, N_FEATURES)])


def check(calibration: Calibration, folder: Path, replays: Sequence[Replay]) -> str:
    """Two tables in Markdown: thresholds, and what tells rejection."""
    beta = np.concatenate([replay.beta for replay in replays])
    p, q = (np.concatenate([getattr(replay, name) for replay in replays]) for name in "pq")
    cluster = np.repeat([r.conversation for r in replays], [len(r.ids) for r in replays])
    lines = [
        f"{len(np.unique(cluster))} conversations, {len(beta)} tokens; mean beta "
        f"{beta.mean():.4f}, Delta {(p < q).mean():.3f}.",
        "",
        "| u | a | b | r | threshold | uploads per token | risk |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, law in calibration.laws.items():
        u = np.concatenate([getattr(replay, name) for replay in replays])
        line = fit_line(u, beta, cluster)
        here = f"{line.a:.3f} | {line.b:.4f} | {line.r:.3f}"
        chosen = {"averse": law.averse, "risk": law.risk, "prone": law.prone, "0.073": 0.073}
        for threshold, value in chosen.items():
            if value is None:
                lines.append(f"| {name} | {here} | {threshold}: none | | |")
                continue
            label = threshold if threshold == "0.073" else f"{threshold}, {value:.3f}"
            skipped = u <= value + 1e-9
            rate, risk = (~skipped).mean(), (skipped * beta).mean()
            spread = 1.96 * _error(skipped * beta, cluster)
            lines.append(f"| {name} | {here} | {label} | {rate:.4f} | {risk:.5f} +- {spread:.5f} |")
    scores, errors = scores_of(calibration, folder, replays, beta)
    shares = " | ".join(f"beta skipped at {100 * rate:.0f} % uploads" for rate in _RATES)
    lines += [
        "",
        f"| told by | AUROC | calibration error | {shares} |",
        "|---|---|---|---|---|---|",
    ]
    for told_by, score in {**scores, "oracle": beta}.items():
        rates, risks = risk_curve(score, beta)
        left = " | ".join(f"{np.interp(x, rates, risks) / beta.mean():.3f}" for x in _RATES)
        error = f"{errors[told_by]:.4f}" if told_by in errors else ""
        area = f"{auroc(score, beta):.4f}" if told_by != "oracle" else ""
        lines.append(f"| {told_by} | {area} | {error} | {left} |")
    return "\n".join(lines) + "\n"


def _error(loss: Floats, cluster: NDArray[np.int64]) -> float:
    """Standard error of the mean loss per token, tokens of one conversation being alike."""
    _, number = np.unique(cluster, return_inverse=True)
    spread = np.bincount(number, weights=loss - loss.mean())
    return float(np.sqrt(spread @ spread)) / len(loss)


def scores_of(
    calibration: Calibration, folder: Path, replays: Sequence[Replay], beta: Floats
) -> tuple[dict[str, Floats], dict[str, float]]:
    """Scores by name, and calibration errors of those that stand for a probability."""
    scores: dict[str, Floats] = {}
    errors = {}
    if calibration.head is not None:
        expected = calibration.head.estimator == "expected"
        table = np.concatenate([features(replay, expected) for replay in replays])
        scores["head"] = 1.0 - predict(calibration.head_path(folder), table)
        errors["head"] = calibration_error(scores["head"], beta)
    estimators: tuple[EstimatorName, ...] = ("sampled", "expected")
    for name in estimators:
        u = np.concatenate([getattr(replay, name) for replay in replays])
        law = calibration.laws[name]
        scores[f"{name} u"] = u
        errors[f"{name} u"] = calibration_error(np.clip(law.a * u + law.b, 0.0, 1.0), beta)
    at = FEATURES.index("entropy")
    scores["entropy"] = np.concatenate([r.marks[:, at] for r in replays]).astype(np.float64)
    return scores, errors


def _main() -> None:
    import argparse

    from ..lm.engines.llama import LlamaEngine
    from ..lm.engines.options import EngineOptions
    from ..models.shipped import path_of

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--replies", type=int, default=1)
    args = parser.parse_args()
    calibration = load(args.calibration)
    setting = Setting(
        calibration.sampler, calibration.wire_top, calibration.k, args.seed, calibration.max_tokens
    )
    options = EngineOptions(n_threads=1, n_threads_batch=1)
    device = LlamaEngine(path_of("demo-slm"), options)
    cloud = LlamaEngine(path_of("demo-llm"), options, max_rows=setting.max_tokens)
    prompts = read_prompts(args.prompts)
    replays = list(shadow_run(device, cloud, prompts, replace(setting, replies=args.replies)))
    print(check(calibration, args.calibration.parent, replays))
    device.close()
    cloud.close()


if __name__ == "__main__":
    _main()
