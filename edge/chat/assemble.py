"""From a configuration to an assistant: load the model, find the verifier, choose the strategy."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ...common.errors import CloudError, ConfigError, ProtocolError, Refused, Rejected
from ...common.keys import read_key_file
from ...common.listen import is_loopback
from ...configs.config import Config
from ...configs.layers import as_environment
from ...lm.engines.protocol import Engine
from ...lm.uncertainty import estimator
from ...lm.vocabulary import require_same
from ...models.resolve import find_model
from ..cache import TokenCache
from ..decode.drafter import Device
from ..decode.handoff import Endpoint
from ..decode.loop import GOING_ON
from ..decode.rotation import Partners
from ..device.prompt_cache import PromptCache, prompt_folder
from ..link.budget import Budget, BudgetedLink, budget_file
from ..link.protocol import Link
from ..link.session import Session
from ..policy.calibration import model_digest
from ..policy.strategy import shares_of
from .adjust import PIPELINED, choose, handing, model_name
from .assistant import Assistant
from .demo import DemoVerifier

if TYPE_CHECKING:
    from ..link.openai import OpenAiEndpoint
    from ..link.probe import Kind

ROWS = 16
"""Rows of logits in one pass on the device: what an ensemble's models score at once."""

NO_GPU = "no layer on a GPU"
"""What a backend says of itself that took none."""


@contextmanager
def assemble(
    config: Config,
    notify: Callable[[str], None],
    link: Link | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[Assistant]:
    """An assistant as configured, for as long as the context lasts.

    Args:
        config: all options.
        notify: takes one line for the user.
        link: to a verifier that is there already; None: as the configuration says.
        environment: of the process, for the key.

    Raises:
        ModelError: the device model is refused, or does not fit the verifier's.
        CloudError: no verifier, and the configuration requires one.
        ConfigError: options that do not fit each other.
    """
    has_partners = config.strategy.name == "ensemble" and bool(config.strategy.partner)
    given = link is not None or has_partners
    found = nullcontext(link) if given else _verifier(config, notify, environment)
    budget = Budget(config.budget, budget_file(environment))
    with found as link, _endpoint(config, notify, environment, budget) as endpoint:
        if link is not None and budget.counts:
            link = BudgetedLink(link, budget)
        prompts = prompt_folder(environment.get("XDG_CACHE_HOME"))
        device = make_device(config, prompts)
        if config.device.engine.n_gpu_layers and NO_GPU in device.backend:
            notify("the model runs on the processor: run `uhlm-edge doctor` to get it onto the GPU")
        session = Session(link, device.vocab, model_name(config), config.cloud.deadline)
        partners = None
        try:
            if has_partners:
                partners = _partners(config, device)
            known = _connect(config, session, endpoint)
            if known:
                notify(known)
            handoff = None
            if config.strategy.name == "handoff":
                handoff = handing(config, device, session, endpoint, notify, environment)
            strategy, head = choose(config, device, session, notify, environment)
            seed = config.chat.seed
            yield Assistant(
                replace(device, head=head),
                session,
                strategy,
                system=config.chat.system,
                max_tokens=config.chat.max_tokens,
                seed=secrets.randbits(63) if seed is None else seed,
                pipelined=PIPELINED[config.strategy.pipelined],
                known=known,
                budget=budget if budget.counts else None,
                handoff=handoff,
                partners=partners,
                alone=link is None and config.strategy.name == "local",
            )
        finally:
            session.close()
            if partners is not None:
                partners.close()
            device.cache.engine.close()


@contextmanager
def _verifier(
    config: Config, notify: Callable[[str], None], environment: Mapping[str, str]
) -> Iterator[Link | None]:
    """A link to the verifier that the configuration names, or to the demo's own."""
    cloud = config.cloud
    if config.strategy.name == "handoff":
        yield None  # it has an endpoint instead
        return
    if cloud.kind == "openai" and config.strategy.name != "local":
        raise ConfigError(
            "an openai endpoint can only be handed whole replies: give --strategy handoff"
        )
    reason = "--offline or UHLM_NO_CLOUD is set" if cloud.offline else "no verifier is configured"
    if config.strategy.name == "local" or cloud.offline or not (cloud.url or cloud.demo):
        if cloud.require:
            raise CloudError(f"a verifier is required, but {reason}; give --cloud URL")
        if config.strategy.name != "local" and not cloud.offline:
            notify(f"{reason}; the device answers alone (give --cloud URL)")
        yield None
        return
    from ..link.http import HttpLink  # its library opens a socket when it is imported

    if cloud.url:
        key = api_key(config, environment)
        yield HttpLink(cloud.url, key, cloud.connect_timeout, cloud.ca_file)
        return
    missing = DemoVerifier.missing()
    if missing:
        if cloud.require:
            raise CloudError(missing)
        notify(f"{missing}; the device answers alone")
        yield None
        return
    with DemoVerifier(settings=as_environment(config, "verifier")) as verifier:
        yield HttpLink(verifier.url, verifier.key, cloud.connect_timeout)


@contextmanager
def _endpoint(
    config: Config, notify: Callable[[str], None], environment: Mapping[str, str], budget: Budget
) -> Iterator[OpenAiEndpoint | None]:
    """To whom strategy `handoff` hands a reply over; None for the other strategies, or nobody."""
    cloud = config.cloud
    if config.strategy.name != "handoff":
        yield None
        return
    if cloud.kind == "verifier":
        raise ConfigError("a verifier is asked token by token: use another strategy than handoff")
    if cloud.offline or not cloud.url:
        if cloud.require:
            raise CloudError("an endpoint is required: give --cloud URL, and no --offline")
        if not cloud.offline:
            notify("no endpoint is configured; the device answers alone (give --cloud URL)")
        yield None
        return
    with closing(endpoint_of(config, environment, budget)) as endpoint:
        yield endpoint


def endpoint_of(
    config: Config, environment: Mapping[str, str], budget: Budget | None = None
) -> OpenAiEndpoint:
    """The endpoint that the configuration names; close it when done.

    Raises:
        ConfigError: there is none, or the key would travel in the clear.
    """
    from ..link.openai import OpenAiEndpoint  # its library opens a socket when it is imported

    cloud = config.cloud
    if cloud.url is None:
        raise ConfigError("no endpoint is configured; give --cloud URL")
    return OpenAiEndpoint(
        cloud.url, cloud.model, api_key(config, environment), cloud.connect_timeout, cloud.deadline,
        cloud.ca_file, budget=budget if budget is not None and budget.counts else None,
    )  # fmt: skip


def make_device(config: Config, prompts: Path | None = None) -> Device:
    """Load the device model.

    Args:
        config: all options.
        prompts: where what it reads may be kept for the next start, if a size is configured.

    Raises:
        ModelError: it is refused.
    """
    engine, backend = _engine(config, prompts)
    options = config.strategy
    return Device(
        TokenCache(engine),
        config.sampler,
        wire_top=config.device.wire_top,
        k=options.samples,
        measure=options.measure,
        estimator=estimator(options.estimator),
        backend=backend,
        slide=config.device.slide,
    )


def _engine(config: Config, prompts: Path | None) -> tuple[Engine, str]:
    """The engine and what it runs on. Each is imported only where it is used: 0.3 s and 40 MB."""
    options = config.device.engine
    if _has_company(config):
        options = options.model_copy(update={"processes": max(2, options.processes)})
    path = find_model(config.device.model)
    if config.device.runtime == "onnx":
        from ...lm.engines.onnx import OnnxEngine

        return OnnxEngine(path, options), "CPU (onnxruntime)"
    from ...lm.engines.fit import chosen
    from ...lm.engines.llama import LlamaEngine
    from ...lm.engines.llama_build import llama_build

    engine = LlamaEngine(path, options, max_rows=ROWS)
    backend = f"{engine.model.backend}; {chosen(engine.options)}"
    limit = config.device.prompt_cache_mb << 20
    if not limit or prompts is None:
        return engine, backend
    # All that the bytes of keys and values depend on.
    kept = engine.options.model_dump(include={"cache_type_k", "cache_type_v", "flash_attention"})
    key = f"{model_digest(path)} {sorted(kept.items())} {sorted(llama_build().items(), key=str)}"
    return PromptCache(engine, prompts, limit, key), backend


def _partners(config: Config, device: Device) -> Partners:
    """The further models of an ensemble on this device."""
    from ...lm.engines.llama import LlamaEngine

    shares_of(config.strategy.weight, len(config.strategy.partner) + 1)  # refused before a load
    engines: list[LlamaEngine] = []
    try:
        for name in config.strategy.partner:
            engine = LlamaEngine(find_model(name), config.verifier.engine, max_rows=ROWS)
            engines.append(engine)
            theirs, partner = engine.vocab.fingerprint, find_model(name).name
            require_same(device.vocab.fingerprint, theirs, model_name(config), partner)
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    return Partners([TokenCache(engine) for engine in engines])


def _has_company(config: Config) -> bool:
    """Does a verifier work on this machine too, so that each should use half of the cores?"""
    cloud = config.cloud
    if config.strategy.name == "local" or cloud.offline:
        return False
    return is_loopback(urlsplit(cloud.url).hostname or "") if cloud.url else cloud.demo


def _connect(config: Config, session: Session, endpoint: Endpoint | None) -> str | None:
    """Ask the cloud that somebody named who it is; return what is wrong with it, if anything.

    No text of the user leaves, and a pair that does not fit is refused before anything is written.
    The demo's fits.
    """
    if (endpoint is None and session.is_offline) or not (config.cloud.url or config.cloud.require):
        return None
    try:
        if endpoint is None:
            session.connect()
        else:
            endpoint.connect()
    except CloudError as error:
        if isinstance(error, Refused | Rejected | ProtocolError):  # it answers, but how?
            _require_kind(config, "verifier" if endpoint is None else "openai")
        if config.cloud.require:
            raise
        return f"{error}; {GOING_ON}"
    return None


def _require_kind(config: Config, wanted: Kind) -> None:
    """Say so where the URL is plainly of the other kind."""
    from ..link.probe import kind_of

    cloud = config.cloud
    url = cloud.url or ""
    found = kind_of(url, api_key(config, os.environ), cloud.connect_timeout, cloud.ca_file)
    if found is None or found == wanted:
        return
    if found == "openai":
        raise ConfigError(
            f"{url} is an OpenAI-compatible endpoint, not a verifier: give --strategy handoff"
        )
    raise ConfigError(f"{url} is a verifier: use another strategy than handoff")


def api_key(config: Config, environment: Mapping[str, str]) -> str | None:
    """The key for the verifier: from the environment, else from a file only its owner can read.

    Raises:
        ConfigError: the file cannot be read, or others can read it.
    """
    if key := environment.get("UHLM_API_KEY", "").strip():
        return key
    if config.cloud.key_file is None:
        return None
    return read_key_file(config.cloud.key_file.expanduser())[0]
