"""What a comparison needs around it: a verifier, a shadow verifier, embeddings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

from ...cloud.service import load_service
from ...common.errors import UsageError
from ...common.keys import Keys
from ...common.prompts import Case
from ...configs.config import Config
from ...configs.layers import as_environment
from ...edge.chat.assemble import api_key
from ...edge.chat.demo import DemoVerifier
from ...edge.link.http import HttpLink
from ...edge.link.in_process import LocalLink
from ...lm.engines.llama import LlamaEngine
from ...lm.engines.llama_embed import LlamaEmbedder
from ...models.resolve import find_model
from ..harness.meter import Meter, PassCount, VerifierCounters, http_counters
from ..harness.scoring import cosine
from ..harness.shadow_verifier import ROWS, ShadowVerifier
from .compare import Bench, Similarity


@contextmanager
def open_bench(
    config: Config,
    cases: Sequence[Case],
    needed: bool,
    tell: Callable[[str], None],
    in_process: bool = False,
    shadow: bool = True,
    embeddings: str | None = None,
) -> Iterator[Bench]:
    """Verifier, shadow verifier and embeddings, for as long as the context lasts.

    Args:
        config: all options.
        cases: the rows; embeddings are loaded only if one has a reference.
        needed: whether any strategy calls the verifier.
        tell: takes a line for the user.
        in_process: no network in between.
        shadow: load the LLM once more, for the shadow verification.
        embeddings: model for the similarity to references; None: the LLM.

    Raises:
        CloudError: there is no verifier.
        ModelError: a model is refused.
    """
    with ExitStack() as stack:
        link: Callable[[], Meter] = _no_verifier
        counters: VerifierCounters | None = None
        if needed and in_process:
            service = load_service(find_model(config.verifier.model), config.verifier, Keys())
            done = service.verifier.counters

            def counters() -> PassCount:
                return PassCount(done.passes, done.positions)

            def link() -> Meter:
                return Meter(LocalLink(service), on_wire=False)

        elif needed:
            cloud = config.cloud
            url, key = cloud.url, api_key(config, os.environ)
            if url is None and (cloud.offline or not cloud.demo):
                raise UsageError("no verifier is configured; give --cloud URL or --in-process")
            if url is None:  # the demo's, with the model and the threads of the configuration
                settings = as_environment(config, "verifier")
                verifier = stack.enter_context(DemoVerifier(settings=settings))
                url, key = verifier.url, verifier.key
            counters = http_counters(url, key)

            def link() -> Meter:
                return Meter(HttpLink(url, key, cloud.connect_timeout, cloud.ca_file))

        reader = _shadow_verifier(config, stack) if shadow else None
        wanted = any(case.reference is not None for case in cases)
        similarity = _similarity(config, embeddings, stack) if wanted else None
        yield Bench(config, link, counters, reader, similarity, tell, in_process=in_process)


def _no_verifier() -> Any:
    raise AssertionError("no strategy of the list calls a verifier")


def _shadow_verifier(config: Config, stack: ExitStack) -> ShadowVerifier:
    options = config.verifier.engine
    engine = LlamaEngine(find_model(config.verifier.model), options, max_rows=ROWS)
    stack.callback(engine.close)
    return ShadowVerifier(engine, config.sampler)


def _similarity(config: Config, model: str | None, stack: ExitStack) -> Similarity:
    name = model or config.verifier.model
    embedder = LlamaEmbedder(find_model(name), config.verifier.engine)
    stack.callback(embedder.close)
    embed = lru_cache(4096)(embedder.embed)
    return lambda a, b: cosine(embed(a), embed(b))
