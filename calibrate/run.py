"""Calibrate a pair: shadow run, fit, reward head, one file.

Rules of the figures:
- The device drafts, the LLM judges every draft and replaces what it rejects: the text is the LLM's.
  What `uhlm` writes differs from it by the risk, so upload rates carry over; a token that is
  skipped wrongly makes the next ones a little riskier than measured here.
- u, beta, Delta and the fit are of the unrounded distributions over the whole vocabulary, under
  the sampler that the file names. Delta and the mean of beta are given for the rounded q too.
- Predictions of the grid are crossed: fitted on one half of the conversations, for the other.
- The reward head is trained on four fifths of the conversations of all texts; its figures, those of
  what it competes with, and its threshold are of the fifth of a text that it never saw.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..common.files import write_whole
from ..common.prompts import read_prompts
from ..edge.policy.calibration import Calibration, EstimatorName, HeadFile, ModelKey, Quality
from ..edge.policy.reward import FEATURES, FORMAT
from ..lm.engines.protocol import Engine
from .fit import fit_law, fit_line, require_enough, risk_threshold
from .head import Head, export, features, train
from .rows import kept_rows
from .scores import auroc, calibration_error, risk_curve
from .shadow import Replay, Setting, shadow_run

Floats = NDArray[np.float64]


class Pair(NamedTuple):
    """Both models and what they are called."""

    device: Engine
    cloud: Engine
    device_key: ModelKey
    cloud_key: ModelKey


class Text(NamedTuple):
    """What one calibration is made on.

    Attributes:
        prompts: JSON lines.
        out: the calibration, NAME.json; the head becomes NAME.onnx beside it.
        setting: sampler, K, seed, longest reply, replies per prompt.
    """

    prompts: Path
    out: Path
    setting: Setting


class Result(NamedTuple):
    """What a calibration made; `held_out` and `scores` are for pictures."""

    calibration: Calibration
    replays: list[Replay]
    held_out: list[Replay]
    head: Head | None


def calibrate(
    pair: Pair,
    texts: Sequence[Text],
    target_risk: float = 0.001,
    estimator: EstimatorName = "sampled",
    with_head: bool = True,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> list[Result]:
    """Run the pair over each text, or go on where a run was interrupted, and write its file.

    Args:
        pair: both models.
        texts: each has a fit and thresholds of its own; one head learns from all of them.
        target_risk: of the `risk` thresholds.
        estimator: of the u that the reward head reads.
        with_head: train one; it needs the package onnx.
        advance: told how many replies of how many are done.

    Raises:
        DataError: prompts that cannot be read, or too few of them; rows of another run in the way.
        ResourceError: onnx is not installed.
    """
    for text in texts:
        require_enough(len({case.conversation for case in read_prompts(text.prompts)}))
    rows = [shadow_rows(pair, text, advance) for text in texts]
    calibrations = [
        summarise(replays, pair, text, target_risk)
        for text, replays in zip(texts, rows, strict=True)
    ]
    parts = [split(replays) for replays in rows]
    head = None
    if with_head:
        head = train(_pooled([learnt for learnt, _ in parts]), estimator == "expected")
    results = []
    for text, replays, made, (learnt, held_out) in zip(
        texts, rows, calibrations, parts, strict=True
    ):
        calibration = made
        if head is not None:
            file = _write_head(head, pair, made, text.out, learnt, held_out, estimator)
            calibration = made.model_copy(update={"head": file})
        write_whole(text.out, calibration.model_dump_json(indent=1).encode() + b"\n")
        results.append(Result(calibration, replays, held_out, head))
    return results


def _pooled(texts: Sequence[Sequence[Replay]]) -> list[Replay]:
    """The replies of all texts; conversations of different texts keep apart."""
    pooled: list[Replay] = []
    for replays in texts:
        first = 1 + max((replay.conversation for replay in pooled), default=-1)
        pooled += [replace(r, conversation=first + r.conversation) for r in replays]
    return pooled


def _write_head(
    head: Head,
    pair: Pair,
    calibration: Calibration,
    out: Path,
    learnt: Sequence[Replay],
    held_out: Sequence[Replay],
    estimator: EstimatorName,
) -> HeadFile:
    """Write NAME.onnx beside NAME.json, with what the head is worth on this text."""
    path = out.with_suffix(".onnx")
    about = {
        "device": pair.device_key.name,
        "cloud": pair.cloud_key.name,
        "calibration": calibration.name,
        "estimator": estimator,
    }
    export(head, path, about)
    target = calibration.target_risk
    quality, risk = compare(head, learnt, held_out, estimator, target)
    return HeadFile(
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        estimator=estimator,
        held_out=sum(len(replay.ids) for replay in held_out),
        quality=quality,
        risk=risk,
    )


def shadow_rows(pair: Pair, text: Text, advance: Callable[[int, int], None]) -> list[Replay]:
    """All replies of the shadow run; each is appended to the rows file as soon as it is there."""
    setting = text.setting
    conversations = read_prompts(text.prompts)
    total = len(conversations) * setting.replies
    header = _header(pair, _digest(text.prompts), setting)
    with kept_rows(text.out, header, Replay.from_json) as (replays, keep):
        del replays[total:]
        advance(len(replays), total)
        for replay in shadow_run(pair.device, pair.cloud, conversations, setting, len(replays)):
            line = replay.to_json()
            keep(line)
            replays.append(Replay.from_json(line))  # rounded, as when the run is resumed
            advance(len(replays), total)
    return replays


def _digest(prompts: Path) -> str:
    return hashlib.sha256(prompts.read_bytes()).hexdigest()


def _header(pair: Pair, digest: str, setting: Setting) -> str:
    """What must be equal for a run to go on. `replies` may grow: it only makes the run longer."""
    about: dict[str, Any] = {
        "rows": 2,  # 1: the device wrote alone
        "device": pair.device_key.model_dump(),
        "cloud": pair.cloud_key.model_dump(),
        "prompts": digest,
        "sampler": setting.sampler.model_dump(),
        "wire_top": setting.wire_top,
        "k": setting.k,
        "seed": setting.seed,
        "max_tokens": setting.max_tokens,
        "features": FORMAT,
    }
    return json.dumps(about, sort_keys=True)


def summarise(
    replays: Sequence[Replay], pair: Pair, text: Text, target_risk: float = 0.001
) -> Calibration:
    """Everything but the reward head.

    Raises:
        DataError: too few conversations or tokens.
    """
    columns = {
        column: np.concatenate([getattr(replay, column) for replay in replays])
        for column in ("p", "q", "q_rounded", "beta", "beta_rounded")
    }
    setting = text.setting
    p, q, rounded = columns["p"], columns["q"], columns["q_rounded"]
    estimators: tuple[EstimatorName, ...] = ("sampled", "expected")
    return Calibration(
        name=text.out.stem, made=date.today().isoformat(), device=pair.device_key,
        cloud=pair.cloud_key, sampler=setting.sampler, wire_top=setting.wire_top, k=setting.k,
        seed=setting.seed, max_tokens=setting.max_tokens, replies=setting.replies,
        prompts=text.prompts.name, prompts_digest=_digest(text.prompts),
        conversations=len({replay.conversation for replay in replays}), tokens=len(p),
        delta=float((p < q).mean()), delta_rounded=float((p < rounded).mean()),
        certain=float((rounded == 1.0).mean()), mean_beta=float(columns["beta"].mean()),
        mean_beta_rounded=float(columns["beta_rounded"].mean()), target_risk=target_risk,
        laws={chosen: fit_law(replays, chosen, target_risk) for chosen in estimators},
    )  # fmt: skip


def split(replays: Sequence[Replay], every: int = 5) -> tuple[list[Replay], list[Replay]]:
    """Replies to learn from and replies held out, split by conversation: one in `every`."""
    numbers = sorted({replay.conversation for replay in replays})
    back = set(numbers[every - 1 :: every])
    learnt = [replay for replay in replays if replay.conversation not in back]
    return learnt, [replay for replay in replays if replay.conversation in back]


def compare(
    head: Head,
    learnt: Sequence[Replay],
    held_out: Sequence[Replay],
    estimator: EstimatorName = "sampled",
    target_risk: float = 0.001,
) -> tuple[dict[str, Quality], float | None]:
    """How the head, both u and the entropy tell what the LLM rejects, and the head's threshold.

    What is no probability becomes one by a line fitted on `learnt`, clipped to [0, 1].

    Returns:
        Quality by name, and the highest expected rejection up to which skipping costs at most
        `target_risk`; None if there is none.
    """
    beta = np.concatenate([replay.beta for replay in held_out])
    table = np.concatenate([features(replay, estimator == "expected") for replay in held_out])
    rejection = 1.0 - head.predict(table)

    def quality_of(score: Floats, probability: Floats) -> Quality:
        rate, risk = risk_curve(score, beta)
        return Quality(
            auroc=auroc(score, beta),
            calibration_error=calibration_error(probability, beta),
            uploads=float(rate[risk <= target_risk].min()),
        )

    quality = {"head": quality_of(rejection, rejection)}
    learnt_beta = np.concatenate([replay.beta for replay in learnt])
    cluster = np.zeros(len(learnt_beta), dtype=np.int64)
    for name in ("sampled", "expected", "entropy"):
        line = fit_line(_scores(learnt, name), learnt_beta, cluster)
        score = _scores(held_out, name)
        quality[name] = quality_of(score, np.clip(line.a * score + line.b, 0.0, 1.0))
    return quality, risk_threshold(rejection, beta, target_risk)


def _scores(replays: Sequence[Replay], name: str) -> Floats:
    if name == "entropy":
        at = FEATURES.index("entropy")
        return np.concatenate([replay.marks[:, at] for replay in replays]).astype(np.float64)
    return np.concatenate([getattr(replay, name) for replay in replays])


def describe(calibration: Calibration) -> str:
    """What was found, as Markdown."""
    c = calibration
    lines = [
        f"# {c.name}: {c.device.name} with {c.cloud.name}",
        "",
        f"{c.conversations} conversations, {c.tokens} tokens of {c.prompts}, temperature "
        f"{c.sampler.temperature:g}, K = {c.k}. Mean beta {c.mean_beta:.4f}; Delta {c.delta:.3f} "
        f"with the full q, {c.delta_rounded:.3f} with the rounded q, which is 1 on "
        f"{100 * c.certain:.1f} % of the tokens.",
        "",
        "| u | a | b | r | averse | prone | risk |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, law in c.laws.items():
        thresholds = (law.averse, law.prone, law.risk)
        cells = " | ".join("none" if t is None else f"{t:.3f}" for t in thresholds)
        lines.append(
            f"| {name} | {law.a:.3f} +- {law.a_error:.3f} | {law.b:.4f} +- {law.b_error:.4f} "
            f"| {law.r:.3f} | {cells} |"
        )
    for name, law in c.laws.items():
        lines += [
            "",
            f"{name} u, threshold: uploads and risk per token, predicted and measured",
            "",
            "| u > | rate predicted | rate | risk predicted | risk | bound |",
            "|---|---|---|---|---|---|",
        ]
        for row in law.grid:
            bound = "" if row.risk_bound is None else f"{row.risk_bound:.5f}"
            lines.append(
                f"| {row.threshold:.2f} | {row.rate_predicted:.4f} | {row.rate_measured:.4f} "
                f"| {row.risk_predicted:.5f} | {row.risk_measured:.5f} | {bound} |"
            )
    if c.head is not None:
        lines += ["", f"Rejection told on {c.head.held_out} held-out tokens", ""]
        lines += [f"| by | AUROC | calibration error | uploads at risk {c.target_risk:g} |"]
        lines += ["|---|---|---|---|"]
        for score, quality in c.head.quality.items():
            uploads = "" if quality.uploads is None else f"{quality.uploads:.4f}"
            lines.append(
                f"| {score} | {quality.auroc:.4f} | {quality.calibration_error:.4f} | {uploads} |"
            )
        if c.head.risk is not None:
            lines += ["", f"Threshold of the head at that risk: {c.head.risk:.4f}"]
    return "\n".join(lines) + "\n"
