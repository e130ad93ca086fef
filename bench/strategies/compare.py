"""Compare strategies on the same rows: what they get right, what they upload, how fast they are.

Each strategy answers every row once per seed; reply i under seed s draws with `turn_seed(s, i)`, so
that strategies can be compared draw by draw. Time and bytes are those of the replies alone: the
verifier's counters, the shadow verification and the scores are read outside the timed path.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from ...common.errors import CloudError, DataError
from ...common.prompts import Case, Message
from ...configs.config import Config
from ...edge.cache import TokenCache
from ...edge.chat.adjust import PIPELINED
from ...edge.chat.assemble import assemble
from ...edge.chat.assistant import Assistant
from ...edge.decode.handoff import HandoffLoop
from ...edge.decode.loop import ReplyLoop
from ...edge.decode.rotation import RotationLoop
from ...edge.events import Notice, Token
from ...edge.policy.strategy import Strategy, make_strategy, shares_of
from ...lm.chat import ChatEncoder
from ...lm.draws import turn_seed
from ...lm.engines.protocol import Engine
from ...lm.vocabulary import TextDecoder
from ...models.resolve import find_model
from ..harness.meter import CountingEngine, Meter, PassCount, VerifierCounters
from ..harness.scoring import Outcome, exact, token_f1
from ..harness.shadow_verifier import ShadowVerifier
from ..network.slow_engine import PacedEngine
from .ensemble_baseline import write_baseline
from .handed import HandoffWriter
from .specs import BASELINE, StrategySpec

Similarity = Callable[[str, str], float]
"""How similar two texts are."""


class Writer(Protocol):
    """Answers one row after the other under one seed."""

    def warm_up(self, case: Case, seed: int) -> None:
        """A reply that nobody counts and no policy learns from."""
        ...

    def write(self, case: Case, seed: int) -> Outcome:
        """The reply with that seed, counted but not scored; `betas` may come later."""
        ...


@dataclass(frozen=True)
class Bench:
    """Everything that the strategies share.

    Attributes:
        config: sampler, device, limits; of the strategies what their specs do not say.
        link: makes a fresh link to the verifier.
        counters: of the verifier; None: it has none.
        shadow: for the shadow verification; None: none.
        similarity: to a reference; None: not measured.
        tell: takes a line for the user.
        watch: shown every finished reply, outside the timed path.
        endpoint: URL of what `handoff` hands replies to; None: the LLM, in this process.
        in_process: an ensemble's models take turns in this process, with no protocol in between.
        clock: what replies are timed by.
        paces: seconds per pass and id that each model takes at least, the device's first.
    """

    config: Config
    link: Callable[[], Meter]
    counters: VerifierCounters | None
    shadow: ShadowVerifier | None
    similarity: Similarity | None
    tell: Callable[[str], None]
    watch: Callable[[Case, ReplyLoop], None] = lambda case, loop: None
    endpoint: str | None = None
    in_process: bool = False
    paces: Sequence[tuple[float, float]] = ()
    clock: Callable[[], float] = time.perf_counter

    def counting(self, engines: Sequence[Engine]) -> list[CountingEngine]:
        """Engines that count their passes, slowed down if so wanted."""
        paced = [PacedEngine(e, *pace) for e, pace in zip(engines, self.paces, strict=False)]
        return [CountingEngine(engine) for engine in [*paced, *engines[len(paced) :]]]

    def run(
        self, spec: StrategySpec, cases: Sequence[Case], seed: int, start: int = 0
    ) -> Generator[Outcome, None, None]:
        """Answer the rows from `start` on with one strategy under one seed.

        One reply before them warms up and is not kept.

        Raises:
            CloudError: the verifier was away: the numbers would be the device's alone.
            DataError: a row is too long for the context.
        """
        with self._writer(spec) as writer:
            writer.warm_up(cases[0], seed)
            for i, case in enumerate(cases[start:], start):
                yield self._scored(writer.write(case, turn_seed(seed, i)), case)

    def config_of(self, spec: StrategySpec) -> Config:
        """The configuration with an spec's strategy."""
        cloud = self.config.cloud.model_copy(update={"require": spec.calls})
        options = spec.options
        if spec.kind == "ensemble" and self.in_process and not options.partner:
            options = options.model_copy(update={"partner": (self.config.verifier.model,)})
        elif spec.kind not in ("ensemble", BASELINE):
            options = options.model_copy(update={"partner": ()})  # they ask the verifier
        return self.config.model_copy(update={"strategy": options, "cloud": cloud})

    @contextmanager
    def _writer(self, spec: StrategySpec) -> Iterator[Writer]:
        config = self.config_of(spec)
        if spec.kind == BASELINE:
            with _BaselineWriter.open(config, self) as standard:
                yield standard
            return
        if spec.kind == "handoff":
            with HandoffWriter.open(config, self.endpoint) as handing:
                yield handing
            return
        meter = self.link() if spec.calls and not config.strategy.partner else None
        with ExitStack() as stack:
            # What policies learnt elsewhere is not taken up, nor kept.
            state = stack.enter_context(TemporaryDirectory())
            environment = {**os.environ, "XDG_STATE_HOME": state}
            assistant = stack.enter_context(assemble(config, self.tell, meter, environment))
            assistant.strategy = spec.own_strategy() or assistant.strategy
            yield _LoopWriter(self, assistant, meter, config)

    def _scored(self, outcome: Outcome, case: Case) -> Outcome:
        if case.answer is not None:
            return replace(outcome, exact=exact(outcome.text, case.answer))
        assert case.reference is not None  # noqa: S101 - a case has one of both
        alike = self.similarity(outcome.text, case.reference) if self.similarity else None
        return replace(outcome, token_f1=token_f1(outcome.text, case.reference), cosine=alike)


class _LoopWriter:
    """The product's own loop, inside meters."""

    def __init__(
        self, bench: Bench, assistant: Assistant, meter: Meter | None, config: Config
    ) -> None:
        self._bench, self._assistant, self._meter = bench, assistant, meter
        self._chat = config.chat
        self._pipelined = PIPELINED[config.strategy.pipelined]
        partners = assistant.partners
        others = [] if partners is None else [cache.engine for cache in partners.caches]
        self._engine, *self._partners = bench.counting([assistant.device.cache.engine, *others])
        self._device = replace(assistant.device, cache=TokenCache(self._engine))
        if partners is not None:
            partners.caches = [TokenCache(engine) for engine in self._partners]

    def warm_up(self, case: Case, seed: int) -> None:
        online = not self._assistant.session.is_offline
        strategy = make_strategy("hlm" if online else "local")
        assistant = self._with(self._assistant.strategy if self._partners else strategy, seed)
        for event in assistant.answer(case.messages):
            if isinstance(event, Notice):
                self._refuse(event.text, case, assistant.loop)

    def _with(self, strategy: Strategy, seed: int) -> Assistant:
        """An assistant for one reply with that very seed."""
        return Assistant(
            self._device, self._assistant.session, strategy, self._chat.system,
            self._chat.max_tokens, seed, self._pipelined, partners=self._assistant.partners,
        )  # fmt: skip

    def write(self, case: Case, seed: int) -> Outcome:
        """Time the reply; then count, and look at it in shadow."""
        assistant = self._with(self._assistant.strategy, seed)
        if self._meter is not None:
            self._meter.restart()
        llm, device = self._llm_work(), self._engine.work
        begun = self._bench.clock()
        for event in assistant.answer(case.messages):
            if isinstance(event, Notice):
                self._refuse(event.text, case, assistant.loop)
        loop = assistant.loop
        assert loop is not None  # noqa: S101 - it has been iterated
        assert not isinstance(loop, HandoffLoop)  # noqa: S101 - a strategy by token
        took = self._bench.clock() - begun
        own = self._engine.work.since(device)
        counted: dict[str, Any] = {
            "seconds": took, "device_passes": own.passes, "device_positions": own.positions,
        }  # fmt: skip
        if (meter := self._meter) is not None:
            counted |= {
                "calls": len(meter.bodies), "bodies": meter.bodies, "requests": meter.requests,
                "payload_down": loop.stats.downlink_bytes,
                "wire_down": None if meter.requests is None else loop.stats.wire_down,
            }  # fmt: skip
        if (now := self._llm_work()) is not None and llm is not None:
            counted["llm_passes"], counted["llm_positions"] = now.since(llm)
        outcome = replace(count_reply(case.line, assistant.text, loop), **counted)
        if isinstance(loop, ReplyLoop):
            self._bench.watch(case, loop)
        return self._look(outcome, case, loop)

    def _refuse(
        self, notice: str, case: Case, loop: ReplyLoop | HandoffLoop | RotationLoop | None
    ) -> None:
        if loop is not None and loop.stats.offline_reason is not None:
            raise CloudError(f"the verifier was away: {loop.stats.offline_reason}")
        raise DataError(f"the row of line {case.line}: {notice}")

    def _llm_work(self) -> PassCount | None:
        """By the verifier's counters, or the partners'; nothing if none is asked."""
        if self._partners:
            works = [engine.work for engine in self._partners]
            return PassCount(sum(w.passes for w in works), sum(w.positions for w in works))
        if self._meter is None:
            return PassCount(0, 0)
        return self._bench.counters() if self._bench.counters else None

    def _look(self, outcome: Outcome, case: Case, loop: ReplyLoop | RotationLoop) -> Outcome:
        shadow = self._bench.shadow
        if shadow is None:
            return outcome
        system = [Message(role="system", content=self._chat.system)] if self._chat.system else []
        ids = [token.id for token in loop.tokens]
        prompt = shadow.prompt([*system, *case.messages])
        betas = shadow.betas(prompt, ids, loop.text.proposed)
        return shadow_counts(outcome, loop, betas)


class _BaselineWriter:
    """Both models at each token, in this process."""

    def __init__(
        self, config: Config, models: Sequence[CountingEngine], clock: Callable[[], float]
    ) -> None:
        self._config, self._models, self._clock = config, models, clock
        self._chats = [ChatEncoder(model.vocab) for model in models]

    @staticmethod
    @contextmanager
    def open(config: Config, bench: Bench) -> Iterator[_BaselineWriter]:
        """Load both models for as long as the context lasts."""
        from ...lm.engines.llama import LlamaEngine

        others = config.strategy.partner or (config.verifier.model,)
        places = [
            (config.device.model, config.device.engine),
            *((name, config.verifier.engine) for name in others),
        ]
        models = bench.counting([LlamaEngine(find_model(name), opts) for name, opts in places])
        try:
            yield _BaselineWriter(config, models, bench.clock)
        finally:
            for model in models:
                model.close()

    def warm_up(self, case: Case, seed: int) -> None:
        self.write(case, seed)

    def write(self, case: Case, seed: int) -> Outcome:
        """Time the reply, and count the passes of both."""
        chat, config = self._config.chat, self._config
        system = [Message(role="system", content=chat.system)] if chat.system else []
        prompts = [chat.encode([*system, *case.messages]) for chat in self._chats]
        weights = shares_of(config.strategy.weight, len(self._models))
        before = [model.work for model in self._models]
        begun = self._clock()
        ids = write_baseline(
            self._models, prompts, weights, config.sampler, config.device.wire_top,
            seed, chat.max_tokens,
        )  # fmt: skip
        took = self._clock() - begun
        device, *others = (m.work.since(b) for m, b in zip(self._models, before, strict=True))
        decoder = TextDecoder(self._models[0].vocab)
        return Outcome(
            case.line, len(ids), took, from_llm=len(ids), known=0,
            llm_passes=sum(work.passes for work in others),
            llm_positions=sum(work.positions for work in others),
            device_passes=device.passes, device_positions=device.positions,
            requests=None, wire_down=None,
            text="".join(decoder.feed(token) for token in ids) + decoder.end(),
        )  # fmt: skip


def count_reply(line: int, text: str, loop: ReplyLoop | RotationLoop) -> Outcome:
    """The counts of a finished reply; bytes, passes and betas are not among them."""
    stats, tokens = loop.stats, loop.tokens
    judged = [t for t in tokens if t.accepted is not None and t.index in loop.text.proposed]
    return Outcome(
        line=line,
        tokens=len(tokens),
        seconds=stats.elapsed,
        device_seconds=stats.device_time,
        drafts=stats.drafts,
        calls=stats.uploads + stats.audits,
        audits=stats.audits,
        from_llm=stats.from_llm,
        skipped=sum(map(_was_skipped, tokens)),
        judged=len(judged),
        rejected=sum(t.accepted is False for t in judged),
        threshold=stats.threshold,
        text=text,
    )


def shadow_counts(
    outcome: Outcome, loop: ReplyLoop | RotationLoop, betas: Mapping[int, float]
) -> Outcome:
    """The outcome with what the betas of the device's drafts add to it."""
    risked = [betas.get(t.index, 0.0) for t in loop.tokens if _was_skipped(t)]
    return replace(outcome, known=len(betas), beta=sum(betas.values()), skipped_beta=sum(risked))


def _was_skipped(token: Token) -> bool:
    """The device's own word, and no verdict on it."""
    return token.source == "edge" and token.accepted is None
