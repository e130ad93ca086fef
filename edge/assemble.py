"""From a configuration to an assistant: load the model, find the verifier, choose the strategy."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

from .. import models
from ..configs.config import Config, StrategyOptions
from ..lm.engine import Engine
from ..lm.errors import CloudError, ConfigError, ModelError
from ..lm.key_file import read_key_file
from ..lm.targets import Contrastive, Weighted
from .assistant import Assistant
from .demo import DemoVerifier
from .link import HttpLink, Link
from .loop import GOING_ON, Device
from .remote import Remote
from .strategy import Strategy, make_strategy
from .tape import Tape
from .uncertainty import estimator

__all__ = ["api_key", "assemble", "find_model", "make_device", "strategy_of", "threshold_of"]

_PIPELINED = {"auto": None, "on": True, "off": False}


@contextmanager
def assemble(
    config: Config,
    tell: Callable[[str], None],
    link: Link | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[Assistant]:
    """An assistant as configured, for as long as the context lasts.

    Args:
        config: all options.
        tell: takes one line for the user.
        link: to a verifier that is there already; None: as the configuration says.
        environment: of the process, for the key.

    Raises:
        ModelError: the device model is refused, or does not fit the verifier's.
        CloudError: no verifier, and the configuration requires one.
        ConfigError: options that do not fit each other.
    """
    strategy = strategy_of(config.strategy)
    found = nullcontext(link) if link else _verifier(config, strategy, tell, environment)
    with found as link:
        device = make_device(config)
        try:
            remote, told = (None, None) if link is None else _remote(config, device, link)
            if told:
                tell(told)
            seed = config.chat.seed
            yield Assistant(
                device,
                remote,
                strategy,
                system=config.chat.system,
                max_tokens=config.chat.max_tokens,
                seed=secrets.randbits(63) if seed is None else seed,
                pipelined=_PIPELINED[config.strategy.pipelined],
                told=told,
            )
        finally:
            device.tape.engine.close()


@contextmanager
def _verifier(
    config: Config,
    strategy: Strategy,
    tell: Callable[[str], None],
    environment: Mapping[str, str],
) -> Iterator[HttpLink | None]:
    """A link to the verifier that the configuration names, or to the demo's own."""
    cloud = config.cloud
    reason = "--offline or UHLM_NO_CLOUD is set" if cloud.offline else "no verifier is configured"
    if strategy.name == "local" or cloud.offline or not (cloud.url or cloud.demo):
        if cloud.require:
            raise CloudError(f"a verifier is required, but {reason}; give --cloud URL")
        if strategy.name != "local" and not cloud.offline:
            tell(f"{reason}; the device answers alone (give --cloud URL)")
        yield None
        return
    ca_file = str(cloud.ca_file) if cloud.ca_file else None
    if cloud.url:
        yield HttpLink(cloud.url, api_key(config, environment), cloud.connect_timeout, ca_file)
        return
    missing = DemoVerifier.missing()
    if missing:
        if cloud.require:
            raise CloudError(missing)
        tell(f"{missing}; the device answers alone")
        yield None
        return
    with DemoVerifier(_demo_arguments(config)) as verifier:
        yield HttpLink(verifier.url, verifier.key, cloud.connect_timeout)


def _demo_arguments(config: Config) -> list[str]:
    options = config.verifier
    return ["--profile", "demo", "--model", options.model]


def make_device(config: Config) -> Device:
    """Load the device model.

    Raises:
        ModelError: it is refused.
    """
    engine, backend = _engine(config)
    options = config.strategy
    return Device(
        Tape(engine),
        config.sampler,
        wire_top=config.device.wire_top,
        k=options.samples,
        estimator=estimator(options.estimator),
        backend=backend,
    )


def _engine(config: Config) -> tuple[Engine, str]:
    """The engine and what it runs on. Each is imported only where it is used: 0.3 s and 40 MB."""
    options = config.device.engine
    path = find_model(config.device.model)
    if config.device.runtime == "onnx":
        from ..lm.onnx_engine import OnnxEngine

        return OnnxEngine(path, options), "CPU (onnxruntime)"
    from ..lm.llama_engine import LlamaEngine

    engine = LlamaEngine(path, options)
    return engine, engine.model.backend


def _remote(config: Config, device: Device, link: Link) -> tuple[Remote, str | None]:
    """The session with the verifier, and what is wrong with that if something is."""
    name = Path(config.device.model).name.removesuffix(".gguf")
    remote = Remote(link, device.vocab, name, config.cloud.deadline)
    # A verifier that somebody named is asked who it is at once: no text of the user leaves, and a
    # pair that does not fit is refused before anything is written. The demo's fits.
    if config.cloud.url or config.cloud.require:
        try:
            remote.connect()
        except CloudError as error:
            if config.cloud.require:
                raise
            return remote, f"{error}; {GOING_ON}"
    return remote, None


def find_model(name: str) -> Path:
    """The file of a model: a path, or the name of a shipped one.

    Raises:
        ModelError: there is none.
    """
    if name in models.SHIPPED:
        return models.path_of(name)
    path = Path(name).expanduser()
    if not path.exists():
        shipped = ", ".join(sorted(models.SHIPPED))
        raise ModelError(f"no model {name}: give the path of a GGUF file, or one of {shipped}")
    return path


def strategy_of(options: StrategyOptions) -> Strategy:
    """The strategy that the options name."""
    limit = options.draft_limit
    weighted = options.ensemble == "weighted"
    return make_strategy(
        options.name,
        threshold=threshold_of(options),
        rate=options.rate,
        draft_limit=None if limit == "auto" else limit,
        target=Weighted(weight=options.weight) if weighted else Contrastive(mu=options.mu),
    )


def threshold_of(options: StrategyOptions) -> float:
    """The threshold of u as a number.

    averse: beta = a u + b is zero; prone: it reaches Delta (arXiv 2412.12687).

    Raises:
        ConfigError: the fit that a name refers to is not there.
    """
    if isinstance(options.threshold, float):
        return options.threshold
    a, b, delta = options.slope, options.intercept, options.delta
    if a is None or b is None or (options.threshold == "prone" and delta is None):
        needed = "slope and intercept" + (" and delta" if options.threshold == "prone" else "")
        raise ConfigError(
            f"threshold {options.threshold} needs {needed} of a fit in [strategy]; or give a number"
        )
    if a <= 0.0:
        raise ConfigError(f"the fit's slope is {a:g}: uncertainty says nothing here, use hlm")
    return (-b if options.threshold == "averse" else (delta or 0.0) - b) / a


def api_key(config: Config, environment: Mapping[str, str]) -> str | None:
    """The key for the verifier: from the environment, else from a file only its owner can read.

    Raises:
        ConfigError: the file cannot be read, or others can read it.
    """
    if key := environment.get("UHLM_API_KEY", "").strip():
        return key
    if config.cloud.key_file is None:
        return None
    keys = read_key_file(config.cloud.key_file.expanduser())
    if not keys:
        raise ConfigError(f"key file {config.cloud.key_file} holds no key")
    return keys[0]
