"""Strategy `handoff` in a benchmark: to an endpoint, or to the large model in this process."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory

from ...common.errors import CloudError
from ...common.prompts import Case, Message
from ...configs.config import Config
from ...edge.cache import TokenCache
from ...edge.chat.assemble import assemble, endpoint_of
from ...edge.chat.assistant import Assistant
from ...edge.decode.drafter import Device
from ...edge.decode.handoff import NO_ID, Endpoint, Handoff, HandoffLoop
from ...edge.events import Notice, Token
from ...edge.link.session import Session
from ...edge.policy.strategy import make_strategy
from ...edge.stats import Traffic
from ...lm.engines.llama import LlamaEngine
from ...lm.engines.protocol import Engine
from ...lm.sampling import Sampler
from ...models.resolve import find_model
from ..harness.meter import CountingEngine
from ..harness.scoring import Outcome


class LocalEndpoint:
    """A model in this process that replies are handed to: no network, and bytes of text alone.

    Args:
        engine: runs it.
    """

    ready = True

    def __init__(self, engine: Engine) -> None:
        self.traffic = Traffic()
        self._cache = TokenCache(engine)

    def connect(self) -> None:
        """It is here."""

    def stream(
        self,
        messages: Sequence[Message],
        sampler: Sampler,
        seed: int,
        max_tokens: int,
        prompt_tokens: int = 0,
    ) -> Generator[str, None, str]:
        """The reply, token by token; its value is why it ended: `stop` or `length`."""
        device = Device(self._cache, sampler)
        session = Session(None, device.vocab)
        writer = Assistant(device, session, make_strategy("local"), "", max_tokens, seed)
        self.traffic.calls += 1
        self.traffic.payload_up += sum(len(m["content"].encode()) for m in messages)
        for event in writer.answer(messages):
            if isinstance(event, Token):
                self.traffic.payload_down += len(event.text.encode())
                yield event.text
        return writer.finish_reason or "length"


class HandoffWriter:
    """Answers rows as the device would with that endpoint.

    Args:
        assistant: with the device, the threshold and the endpoint.
        config: all options.
        llm: counts the passes of the large model; None: it is elsewhere, so that its positions are
            the prompts and the pieces of its replies, and its passes are not known.
    """

    def __init__(self, assistant: Assistant, config: Config, llm: CountingEngine | None) -> None:
        self._assistant, self._chat, self._llm = assistant, config.chat, llm
        self._engine = CountingEngine(assistant.device.cache.engine)
        self._device = replace(assistant.device, cache=TokenCache(self._engine))

    @staticmethod
    @contextmanager
    def open(config: Config, url: str | None) -> Iterator[HandoffWriter]:
        """Load the device, and the large model too where there is no `url` of an endpoint."""
        cloud = config.cloud.model_copy(update={"url": url, "kind": "openai", "require": False})
        config = config.model_copy(update={"cloud": cloud})
        with ExitStack() as stack:
            state = stack.enter_context(TemporaryDirectory())
            environment = {**os.environ, "XDG_STATE_HOME": state}
            quiet = stack.enter_context(assemble(config, lambda text: None, None, environment))
            endpoint: Endpoint
            llm = None
            if url is None:
                engine = LlamaEngine(find_model(config.verifier.model), config.verifier.engine)
                stack.callback(engine.close)
                llm = CountingEngine(engine)
                endpoint = LocalEndpoint(llm)
            else:
                endpoint = endpoint_of(config, os.environ)
                stack.callback(endpoint.close)
            quiet.handoff = replace(quiet.handoff or Handoff(), endpoint=endpoint)
            yield HandoffWriter(quiet, config, llm)

    def warm_up(self, case: Case, seed: int) -> None:
        self.write(case, seed)

    def write(self, case: Case, seed: int) -> Outcome:
        """Time the reply, and count what both models did.

        Raises:
            CloudError: the endpoint failed: the numbers would be the device's alone.
        """
        handoff = self._assistant.handoff or Handoff()
        assistant = Assistant(
            self._device, self._assistant.session, self._assistant.strategy, self._chat.system,
            self._chat.max_tokens, seed, handoff=handoff,
        )  # fmt: skip
        own = self._engine.work
        llm = None if self._llm is None else self._llm.work
        for event in assistant.answer(case.messages):
            if isinstance(event, Notice):
                raise CloudError(f"the endpoint failed: {event.text}")
        loop = assistant.loop
        assert isinstance(loop, HandoffLoop)  # noqa: S101 - the strategy is handoff
        stats, work = loop.stats, self._engine.work.since(own)
        over = bool(stats.uploads)
        pieces = sum(token.id == NO_ID for token in loop.tokens)
        passes, positions = None, (loop.text.origin + pieces if over else 0)
        if self._llm is not None and llm is not None:
            passes, positions = self._llm.work.since(llm)
        return Outcome(
            case.line, stats.tokens, stats.elapsed, stats.device_time, stats.drafts,
            calls=stats.uploads, from_llm=stats.from_llm, skipped=0 if over else stats.tokens,
            llm_passes=passes, llm_positions=positions,
            device_passes=work.passes, device_positions=work.positions,
            bodies=[stats.uplink_bytes] if over else [], requests=None,
            payload_down=stats.downlink_bytes, wire_down=None, threshold=handoff.threshold,
            text=assistant.text,
        )  # fmt: skip
