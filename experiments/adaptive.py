"""Does a threshold keep its risk when the text changes? The real pair, tasks and then dialogues.

`python -m uhlm_edge.experiments.adaptive TASKS DIALOGUES --out FILE.md`

Rules of the figures:
- Each policy answers the same prompts in the same order with the same seeds, in one process: the
  loop of the device, the verifier's protocol, no network.
- Risk is per generated token: the sum of beta over skipped tokens, divided by all tokens. Every
  skipped token is judged by a later upload or by an audit, against the weight that was sent.
- Fixed thresholds make no audits of their own. Here they do, so that their risk is known; those
  are not counted.
- The interval is that of the mean over replies, 1.96 standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..calibrate.shadow import Replay
from ..cloud.service import load_service
from ..common.files import write_whole
from ..common.keys import Keys
from ..common.prompts import Case, read_prompts
from ..configs.layers import load_config
from ..edge.cache import TokenCache
from ..edge.decode.drafter import Device
from ..edge.decode.loop import ReplyLoop
from ..edge.events import Draft, SkippedVerdict, Token
from ..edge.link.in_process import LocalLink
from ..edge.link.session import Prompt, Session
from ..edge.policy.adaptive import Adaptive
from ..edge.policy.calibration import Calibration, load
from ..edge.policy.policies import Policy, UncertainAbove
from ..edge.policy.strategy import Strategy
from ..lm.chat import ChatEncoder
from ..lm.draws import Draws, turn_seed
from ..lm.engines.llama import LlamaEngine
from ..lm.sampling import TOTAL, Distribution
from ..lm.template import Message
from ..models.resolve import find_model
from ..models.shipped import FOLDER

__all__ = ["Segment", "answer_all", "joined", "policies", "replayed", "table"]


@dataclass(frozen=True)
class Segment:
    """What one policy did on one kind of text; lists are per reply."""

    policy: str
    text: str
    tokens: list[int]
    uploads: list[int]
    audits: int
    losses: list[float]
    unjudged: int
    thresholds: list[float]

    @property
    def rate(self) -> float:
        """Uploads per token."""
        return sum(self.uploads) / sum(self.tokens)

    @property
    def risk(self) -> float:
        """Beta of skipped tokens per generated token."""
        return sum(self.losses) / sum(self.tokens)

    @property
    def error(self) -> float:
        """Standard error of the risk, a ratio of means over replies."""
        n, total = len(self.tokens), sum(self.tokens)
        spread = np.array(self.losses) - self.risk * np.array(self.tokens)
        return math.sqrt(n / max(n - 1, 1) * float(spread @ spread)) / total


class _Watched(UncertainAbove):
    """A fixed threshold whose skipped tokens are all judged, to know its risk."""

    audit_after = 64


class _Replies(NamedTuple):
    """The pair, ready to reply."""

    device: Device
    session: Callable[[], Session]
    max_tokens: int

    def loop(self, session: Session, policy: Policy, prompt: Case, seed: int) -> ReplyLoop:
        messages: Sequence[Message] = prompt.messages
        vocab = self.device.vocab

        asked = Prompt(ChatEncoder(vocab).encode(messages), messages, seed, self.max_tokens)
        return ReplyLoop(self.device, session, Strategy("uhlm", policy), asked, pipelined=False)


def answer_all(
    replies: _Replies,
    name: str,
    policy: Policy,
    texts: Sequence[tuple[str, Sequence[Case]]],
    seed: int = 7,
) -> Iterator[Segment]:
    """Answer every prompt of every text, in order, with one policy that goes on learning."""
    session = replies.session()
    turn = 0
    for text, prompts in texts:
        tokens, uploads, losses, thresholds, audits, unjudged = [], [], [], [], 0, 0
        for prompt in prompts:
            loop = replies.loop(session, policy, prompt, turn_seed(seed, turn))
            turn += 1
            events = list(loop.events())
            settled = [event for event in events if isinstance(event, Token)]
            judged = [event for event in events if isinstance(event, SkippedVerdict)]
            skipped = sum(not token.uploaded for token in settled)
            tokens.append(len(settled))
            uploads.append(len(settled) - skipped)
            losses.append(sum(event.beta for event in judged))
            thresholds.append(float(getattr(policy, "threshold", math.nan)))
            audits += loop.stats.audits if isinstance(policy, Adaptive) else 0
            unjudged += skipped - len(judged)
        yield Segment(name, text, tokens, uploads, audits, losses, unjudged, thresholds)


def replayed(policy: Policy, texts: Sequence[Sequence[Replay]]) -> list[tuple[float, float]]:
    """Upload rate and risk on each text of recorded shadow runs, as if the policy had decided.

    Quick, for many settings; the text stays the device's own, since nothing is replaced.
    """
    longest = policy.audit_after or 64
    draws, law = Draws(0), Distribution(np.array([0]), np.array([TOTAL]))
    results = []
    for replays in texts:
        tokens = uploads = 0
        loss = 0.0
        for replay in replays:
            waiting: list[SkippedVerdict] = []
            for i, (u, beta) in enumerate(zip(replay.sampled, replay.beta_rounded, strict=True)):
                uploaded = policy.upload(Draft(i, 0, law, float(u)), draws)
                waiting.append(SkippedVerdict(i, float(u), 0.0 if uploaded else float(beta)))
                uploads += uploaded
                loss += waiting[-1].beta
                if uploaded or len(waiting) == longest or i + 1 == len(replay.ids):
                    for judged in waiting:
                        policy.observe(judged)
                    waiting.clear()
            tokens += len(replay.ids)
        results.append((uploads / tokens, loss / tokens))
    return results


def joined(segments: Sequence[Segment]) -> Segment:
    """All texts of one policy together."""
    first = segments[0]
    return Segment(
        first.policy,
        "all",
        [n for s in segments for n in s.tokens],
        [n for s in segments for n in s.uploads],
        sum(s.audits for s in segments),
        [x for s in segments for x in s.losses],
        sum(s.unjudged for s in segments),
        [x for s in segments for x in s.thresholds],
    )


def table(segments: Sequence[Segment], target: float) -> str:
    """Markdown rows: what each policy did on each text, and on all of it."""
    lines = [
        "| threshold | text | tokens | uploads per token | audits | risk | u_th, least to most |",
        "|---|---|---|---|---|---|---|",
    ]
    for segment in segments:
        low, high = min(segment.thresholds), max(segment.thresholds)
        reach = f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}"
        mark = "" if segment.risk - 1.96 * segment.error <= target else " (above)"
        lines.append(
            f"| {segment.policy} | {segment.text} | {sum(segment.tokens)} | {segment.rate:.4f} "
            f"| {segment.audits} | {segment.risk:.5f} +- {1.96 * segment.error:.5f}{mark} "
            f"| {reach} |"
        )
    return "\n".join(lines) + "\n"


def policies(calibration: Calibration, target: float) -> list[tuple[str, Policy]]:
    """Adaptive from where the calibration says, and the fixed thresholds of the calibration."""
    start = calibration.start("sampled", "uncertainty")
    fixed = [(name, calibration.threshold(name)) for name in ("risk", "averse")]
    return [
        (f"adaptive from {start:.3f}", Adaptive(start, target)),
        *((f"{name}, {value:.3f}", _Watched(value)) for name, value in fixed),
    ]


def _main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("dialogues", type=Path)
    parser.add_argument("--n", type=int, default=250, help="prompts of each text")
    parser.add_argument("--rounds", type=int, default=2, help="how often the dialogues are asked")
    parser.add_argument("--only", default="", help="policies whose names begin so")
    parser.add_argument("--target", type=float, default=0.001)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    calibration = load(FOLDER / "calibrations" / "tasks.json")
    config = load_config({}, "demo", None).config
    engine = LlamaEngine(find_model(config.device.model), config.device.engine)
    service = load_service(find_model(config.verifier.model), config.verifier, Keys())
    device = Device(TokenCache(engine), calibration.sampler, calibration.wire_top, calibration.k)
    session = lambda: Session(LocalLink(service), engine.vocab, engine.model.name)  # noqa: E731
    replies = _Replies(device, session, calibration.max_tokens)
    dialogues = read_prompts(args.dialogues)[: args.n]
    texts = [("tasks", read_prompts(args.tasks)[: args.n])]
    texts += [(f"dialogues, round {i + 1}", dialogues) for i in range(args.rounds)]
    segments = []
    for name, policy in policies(calibration, args.target):
        if not name.startswith(args.only):
            continue
        done = list(answer_all(replies, name, policy, texts))
        segments += [*done, joined(done)]
        print(table([*done, segments[-1]], args.target), flush=True)
    if args.out:
        write_whole(args.out, table(segments, args.target).encode())
    engine.close()


if __name__ == "__main__":
    _main()
