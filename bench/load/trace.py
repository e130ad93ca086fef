"""Traffic of the real device loop, recorded once and cut into calls for a chosen rate of uploads.

Recorded with `hlm`, which uploads every token, a reply tells for each position what the device
drafted, from which distribution, and what was settled. Calls of any upload rate and any block
length are made from that: the bytes of each upload are those of a real one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...common.errors import ConfigError, DataError
from ...configs.config import Config
from ...edge.chat.assemble import assemble
from ...edge.link.protocol import Deadline, Link, WrappedLink
from ...lm.sampling import TOTAL, Distribution
from ...wire.messages import Conflict, Reply, Request, Settings

PROMPTS = (
    "Tell me the capital of Bhutan.",
    "Please look for a one way flight from Washington to San Diego on next Friday.",
    "What is 7 times 8?",
    "Can you help me to plan a weekend by the sea?",
    "Put these words in alphabetical order: magnet, jungle, engine, needle, battery.",
    "I'd like to find a restaurant in the centre of town.",
)


@dataclass(frozen=True)
class Turn:
    """One position of a reply: what was drafted, from what, and what was settled in the end."""

    draft: int
    q: Distribution
    settled: int

    @property
    def doubt(self) -> float:
        """How far the device was from being sure: 1 - q(draft)."""
        return 1.0 - self.q.weight(self.draft) / TOTAL


@dataclass(frozen=True)
class Trace:
    """One recorded reply.

    Attributes:
        prompt: ids before the reply.
        settings: of the reply.
        turns: its positions.
        seconds: that the device took for all of them, calls not counted.
    """

    prompt: tuple[int, ...]
    settings: Settings
    turns: tuple[Turn, ...]
    seconds: float


@dataclass(frozen=True)
class Step:
    """One call: the tokens since the last one, of which `drafts` are judged.

    Attributes:
        begin: position of its first token in the reply.
        tokens: how many tokens it covers.
        skipped: the first of them, settled without the verifier: their weights, each 1..TOTAL.
        drafts: the ids that are judged, the last of the tokens.
        qs: what they were drawn from.
    """

    begin: int
    tokens: int
    skipped: tuple[int, ...] = ()
    drafts: tuple[int, ...] = ()
    qs: tuple[Distribution, ...] = ()


def record(
    config: Config, link: Link, tell: Callable[[str], None], prompts: Sequence[str] = PROMPTS
) -> list[Trace]:
    """Let the device answer `prompts` with `hlm` over `link`; one trace per reply.

    Raises:
        ModelError: a model is refused.
        CloudError: the verifier does not answer.
        ConfigError: the target is an ensemble, whose replies say nothing about the LLM alone.
    """
    strategy = config.strategy.model_copy(update={"name": "hlm", "pipelined": "off"})
    cloud = config.cloud.model_copy(update={"require": True})
    config = config.model_copy(update={"strategy": strategy, "cloud": cloud})
    recorder = _Recorder(link)
    with assemble(config, tell, link=recorder) as assistant:
        for prompt in prompts:
            assistant.reset()
            recorder.resume()
            for _ in assistant.reply(prompt):
                pass
            recorder.finish()
    if not recorder.traces:
        raise DataError("the device wrote nothing to record; is max_tokens too small?")
    return recorder.traces


class _Recorder(WrappedLink):
    """A link that keeps what was drafted and settled."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.traces: list[Trace] = []
        self._held: list[int] = []
        self._turns: list[Turn] = []
        self._settings: Settings | None = None
        self._since = self._seconds = 0.0

    def resume(self) -> None:
        """A reply begins: time runs for the device."""
        self._since, self._seconds = time.perf_counter(), 0.0
        self._turns, self._settings = [], None

    def verify(
        self, session_id: str, request: Request, n_vocab: int, deadline: Deadline
    ) -> Reply | Conflict:
        self._seconds += time.perf_counter() - self._since
        answer = self.link.verify(session_id, request, n_vocab, deadline)
        if isinstance(answer, Reply):
            self._note(request, answer)
        self._since = time.perf_counter()
        return answer

    def _note(self, request: Request, reply: Reply) -> None:
        self._settings = request.settings or self._settings
        if self._settings is not None and self._settings.target.kind != "llm":
            raise ConfigError("load is recorded with the LLM as the target, not an ensemble")
        first_draft = len(request.tokens) - len(request.drafts)
        before = [*self._held[: request.start], *request.tokens[:first_draft]]
        drafts = list(request.tokens[first_draft:])
        settled = [*drafts[: reply.accepted], *reply.tokens]
        for draft, q, token in zip(drafts, request.drafts, settled, strict=False):
            self._turns.append(Turn(draft, q, token))
        self._held = before + settled

    def finish(self) -> None:
        """The reply is over."""
        if self._turns and self._settings is not None:
            prompt = self._held[: self._settings.origin]
            self.traces.append(
                Trace(tuple(prompt), self._settings, tuple(self._turns), self._seconds)
            )


def fits(traces: Sequence[Trace], n_vocab: int) -> bool:
    """Does a model with so many ids know all those of the traces?"""
    used = [max(trace.prompt) for trace in traces]
    used += [max(t.settled, int(t.q.ids[-1])) for trace in traces for t in trace.turns]
    return max(used) < n_vocab


def device_rate(traces: Sequence[Trace]) -> float:
    """Tokens per second that the device alone reached while it was recorded."""
    return sum(len(t.turns) for t in traces) / max(1e-9, sum(t.seconds for t in traces))


def steps_of(traces: Sequence[Trace], upload_rate: float, drafts: int) -> list[list[Step]]:
    """Cut each trace into calls.

    Args:
        traces: of replies.
        upload_rate: the share of tokens that is uploaded: those the device was least sure of.
        drafts: tokens judged in one call. With more than one, every token is uploaded.
    """
    if drafts > 1:
        return [_blocks(trace, drafts) for trace in traces]
    places = [(t.doubt, i, j) for i, trace in enumerate(traces) for j, t in enumerate(trace.turns)]
    # Of equally sure ones any may be taken: spread over replies rather than the first reply's.
    places.sort(key=lambda place: (-place[0], place[2], place[1]))
    chosen = {place[1:] for place in places[: round(upload_rate * len(places))]}
    return [_singles(trace, {j for i, j in chosen if i == n}) for n, trace in enumerate(traces)]


def _singles(trace: Trace, uploads: set[int]) -> list[Step]:
    steps, begin = [], 0
    for at in sorted(uploads):
        skipped = tuple(max(1, t.q.weight(t.settled)) for t in trace.turns[begin:at])
        turn = trace.turns[at]
        steps.append(Step(begin, at + 1 - begin, skipped, (turn.draft,), (turn.q,)))
        begin = at + 1
    if begin < len(trace.turns):  # the end of the reply stays the device's own
        steps.append(Step(begin, len(trace.turns) - begin))
    return steps


def _blocks(trace: Trace, drafts: int) -> list[Step]:
    """Blocks of `drafts` tokens; the next begins after the first draft that was replaced.

    What stands behind that one is never judged, but the model reads it, as it does in real calls.
    """
    steps: list[Step] = []
    begin = 0
    while begin < len(trace.turns):
        block = trace.turns[begin : begin + drafts]
        ids, qs = tuple(t.draft for t in block), tuple(t.q for t in block)
        settled = next((i + 1 for i, t in enumerate(block) if t.draft != t.settled), len(block))
        steps.append(Step(begin, settled, (), ids, qs))
        begin += settled
    return steps
