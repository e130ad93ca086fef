"""Does a threshold keep its risk when the text changes? The real pair, live, on text held out.

`python -m uhlm_edge.experiments.adaptive --out FILE.json`

Rules of the figures:
- Each policy answers the same prompts in the same order with the same seeds, in one process: the
  loop of the device, the verifier's protocol, no network. What it learns it keeps across texts.
- All thresholds are those of the shipped calibration of tasks.
- Risk is per generated token: the sum of beta over skipped tokens, divided by all tokens. The LLM
  judges each reply once more when it is finished, against the weights that were (or would have
  been) sent, so the risk of tokens after the last upload counts too, and no policy learns from it.
- The interval is 1.96 standard errors; replies to one prompt, of all seeds, count as one.
- A text longer than 1,000 tokens is told in two parts: its first 500 tokens, and what follows.
"""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bench.harness.scoring import exact
from ..bench.harness.shadow_verifier import ROWS, ShadowVerifier
from ..cloud.service import load_service
from ..common.files import write_whole
from ..common.keys import Keys
from ..common.prompts import Case, read_prompts, shipped_prompts
from ..configs.config import Config, StrategyOptions
from ..configs.layers import load_config
from ..edge.cache import TokenCache
from ..edge.decode.drafter import Device
from ..edge.decode.loop import ReplyLoop
from ..edge.events import Token
from ..edge.link.in_process import LocalLink
from ..edge.link.session import Prompt, Session
from ..edge.policy.calibration import SHIPPED, load
from ..edge.policy.strategy import Strategy
from ..edge.policy.tuning import Tuning, head_of, strategy_of
from ..lm.chat import ChatEncoder
from ..lm.draws import turn_seed
from ..lm.engines.llama import LlamaEngine
from ..lm.sampling import Sampler
from ..models.resolve import find_model

POLICIES: dict[str, dict[str, Any]] = {
    "local": {"name": "local"},
    "hlm": {"name": "hlm"},
    "uhlm, risk, fixed": {"threshold": "risk"},
    "uhlm (the default: learns for free)": {},
    "uhlm, adaptive (audits)": {"threshold": "adaptive"},
    "uhlm, averse, fixed": {"threshold": "averse"},
    "uhlm by the head, risk, fixed": {"threshold": "risk", "ask_by": "head"},
    "uhlm by the head, learns for free": {"ask_by": "head"},
}
"""What is compared, as options of the strategy."""

SAMPLERS = {"default": Sampler(), "temperature 1": Sampler(temperature=1.0, top_k=0, top_p=1.0)}
_FIRST = 500
_SUMMED, _LISTED = ("tokens", "uploads", "losses", "audits"), ("right", "thresholds")


@dataclass
class Segment:
    """What one policy did on one text; lists are per prompt, NaN where nothing is to be told."""

    policy: str
    text: str
    sampler: str
    tokens: list[int] = field(default_factory=list)
    uploads: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    thresholds: list[float] = field(default_factory=list)
    audits: list[int] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Uploads per token."""
        return sum(self.uploads) / sum(self.tokens)

    @property
    def risk(self) -> float:
        """Beta of skipped tokens per generated token."""
        return sum(self.losses) / sum(self.tokens)

    @property
    def accuracy(self) -> float | None:
        """Share of right answers; None where there is no one right answer."""
        known = [x for x in self.right if not math.isnan(x)]
        return sum(known) / len(known) if known else None

    @property
    def error(self) -> float:
        """Standard error of the risk, a ratio of means over prompts."""
        n, total = len(self.tokens), sum(self.tokens)
        spread = np.array(self.losses) - self.risk * np.array(self.tokens)
        return math.sqrt(n / max(n - 1, 1) * float(spread @ spread)) / total


def halves(segment: Segment) -> list[Segment]:
    """A text in two parts, its first 500 tokens and the rest, if it is long enough.

    Both have a place for every prompt, so that seeds can be added up.
    """
    if sum(segment.tokens) <= 2 * _FIRST:
        return [segment]
    begun = np.cumsum([0, *segment.tokens])[:-1]
    early = begun < _FIRST

    def part(name: str, inside: NDArray[np.bool_]) -> Segment:
        def kept(column: str) -> list[Any]:
            otherwise = 0 if column in _SUMMED else math.nan
            values = getattr(segment, column)
            return [x if here else otherwise for x, here in zip(values, inside, strict=False)]

        columns: dict[str, Any] = {column: kept(column) for column in (*_SUMMED, *_LISTED)}
        return replace(segment, text=f"{segment.text}, {name}", **columns)

    return [part(f"first {_FIRST} tokens", early), part("after them", ~early)]


def pooled(segments: Sequence[Segment]) -> Segment:
    """Several seeds of one policy on one text: added up prompt by prompt."""

    def added(name: str) -> list[Any]:
        return [sum(column) for column in zip(*(getattr(s, name) for s in segments), strict=True)]

    columns: dict[str, Any] = {name: added(name) for name in _SUMMED}
    columns |= {name: [x for s in segments for x in getattr(s, name)] for name in _LISTED}
    return replace(segments[0], **columns)


def table(segments: Sequence[Segment], target: float) -> str:
    """Markdown: what each policy did on each text."""
    lines = [
        "| sampler | text | policy | tokens | uploads per token | audits | risk | accuracy "
        "| threshold, least to most |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for s in segments:
        known = [x for x in s.thresholds if not math.isnan(x)]
        low, high = (min(known), max(known)) if known else (math.nan, math.nan)
        reach = "" if not known else f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}"
        mark = "" if s.risk - 1.96 * s.error <= target else " (above)"
        right = "" if s.accuracy is None else f"{s.accuracy:.3f}"
        lines.append(
            f"| {s.sampler} | {s.text} | {s.policy} | {sum(s.tokens)} | {s.rate:.4f} "
            f"| {sum(s.audits)} | {s.risk:.5f} ± {1.96 * s.error:.5f}{mark} | {right} | {reach} |"
        )
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Job:
    policy: str
    sampler: str
    seed: int
    texts: tuple[str, ...]
    limit: int
    target: float


def _answered(job: _Job) -> list[Segment]:
    """One policy through all texts, in a process of its own."""
    config = load_config({}, "demo", None).config
    options = StrategyOptions.model_validate({**POLICIES[job.policy], "target_risk": job.target})
    tuning = Tuning(load(SHIPPED / "tasks.json"), SHIPPED)
    with TemporaryDirectory() as folder:  # nothing learnt elsewhere is taken up, nor kept
        strategy = strategy_of(options, tuning, {"XDG_STATE_HOME": folder})
        return list(_through(job, config, strategy, options, tuning))


def _through(
    job: _Job, config: Config, strategy: Strategy, options: StrategyOptions, tuning: Tuning
) -> Iterator[Segment]:
    one = {"n_threads": 1, "n_threads_batch": 1}
    own = config.device.engine.model_copy(update=one)
    theirs = config.verifier.model_copy(
        update={"engine": config.verifier.engine.model_copy(update=one)}
    )
    engine = LlamaEngine(find_model(config.device.model), own)
    service = load_service(find_model(config.verifier.model), theirs, Keys())
    judge = LlamaEngine(find_model(config.verifier.model), theirs.engine, max_rows=ROWS)
    sampler = SAMPLERS[job.sampler]
    shadow = ShadowVerifier(judge, sampler)
    head = head_of(strategy, options, tuning, offline=False)
    device = Device(TokenCache(engine), sampler, config.device.wire_top, head=head)
    session = Session(LocalLink(service), engine.vocab, engine.model.name)
    encoder, turn = ChatEncoder(engine.vocab), 0
    with closing(engine), closing(judge):
        for number, text in enumerate(job.texts):
            name = text if job.texts.count(text) == 1 else f"{text}, part {number + 1}"
            segment = Segment(job.policy, name, job.sampler)
            for case in read_prompts(shipped_prompts(text))[: job.limit]:
                ids, seed = encoder.encode(case.messages), turn_seed(job.seed, turn)
                turn += 1
                prompt = Prompt(ids, case.messages, seed, config.chat.max_tokens)
                loop = ReplyLoop(device, session, strategy, prompt, pipelined=False)
                _count(segment, case, loop, shadow)
            yield segment


def _count(segment: Segment, case: Case, loop: ReplyLoop, shadow: ShadowVerifier) -> None:
    """Run the reply and add it to the segment."""
    tokens = [event for event in loop.events() if isinstance(event, Token)]
    ids = [token.id for token in tokens]
    betas = shadow.betas(shadow.prompt(case.messages), ids, loop.text.proposed)
    segment.tokens.append(len(tokens))
    segment.uploads.append(sum(token.uploaded for token in tokens))
    segment.losses.append(
        sum(betas.get(t.index, 0.0) for t in tokens if t.source == "edge" and t.accepted is None)
    )
    segment.audits.append(loop.stats.audits)
    threshold = loop.stats.threshold
    segment.thresholds.append(math.nan if threshold is None else threshold)
    if case.answer is not None:
        segment.right.append(exact("".join(token.text for token in tokens), case.answer))


def _main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", default="tasks-eval,dialogues-eval,tasks-eval")
    parser.add_argument("--limit", type=int, default=200, help="prompts of each text")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--target", type=float, default=0.001)
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--out", type=Path, required=True, help="FILE.json; FILE.md beside it")
    args = parser.parse_args()
    texts = tuple(args.texts.split(","))
    groups = list(product(SAMPLERS, POLICIES))
    jobs = [
        _Job(policy, sampler, seed, texts, args.limit, args.target)
        for sampler, policy in groups
        for seed in range(args.seeds)
    ]
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        found = iter(pool.map(_answered, jobs, chunksize=1))
    segments: list[Segment] = []
    for _ in groups:
        runs = [[part for s in next(found) for part in halves(s)] for _ in range(args.seeds)]
        segments += [pooled(part) for part in zip(*runs, strict=True)]
    order = {s.text: i for i, s in enumerate(segments[: len(segments) // len(groups)])}
    segments.sort(key=lambda s: (s.sampler, order[s.text]))
    rows = [
        {**asdict(s), "rate": s.rate, "risk": s.risk, "error": s.error, "accuracy": s.accuracy}
        for s in segments
    ]
    for row in rows:
        for name in ("tokens", "uploads", "audits"):
            row[name] = sum(row[name])
        for name in ("losses", "right", "thresholds"):
            del row[name]
    write_whole(args.out, json.dumps(rows, indent=1).encode() + b"\n")
    write_whole(args.out.with_suffix(".md"), table(segments, args.target).encode())
    print(table(segments, args.target))


if __name__ == "__main__":
    _main()
