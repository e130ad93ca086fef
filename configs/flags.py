"""The flags that commands share, and the keys they set."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from ..common.errors import UsageError
from ..common.streams import complain

if TYPE_CHECKING:
    from .config import Config
    from .layers import Loaded

R = TypeVar("R")


Profile = Annotated[str | None, typer.Option(help="Named profile (default: demo).")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Config file (TOML).")]


class _Flags:
    """Each flag of a conversation. None means "not given": lower layers decide."""

    profile: Profile
    config_file: ConfigFile
    model: Annotated[str | None, typer.Option(help="Device model: a GGUF file or a shipped name.")]
    pair: Annotated[
        str | None, typer.Option(help="Pull and run two models of the catalogue, such as qwen2.5.")
    ]
    cloud: Annotated[
        str | None, typer.Option(help="URL of a verifier; for handoff, of an endpoint.")
    ]
    offline: Annotated[bool | None, typer.Option("--offline", help="Open no connection at all.")]
    require_cloud: Annotated[
        bool | None, typer.Option("--require-cloud", help="Fail (exit 4) without a verifier.")
    ]
    strategy: Annotated[
        str | None,
        typer.Option(
            metavar="local|cloud|hlm|uhlm|rand|spec|reward|ensemble|handoff",
            help="When to ask the cloud (default: uhlm).",
        ),
    ]
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|averse|prone|risk|adaptive",
            help="Ask when the uncertainty u (0 to 1) exceeds it. By calibration: averse asks "
            "about all that may be rejected at all, prone tolerates what the LLM would often "
            "keep, risk (the default) the most that keeps the measured risk at 0.001 a token; "
            "adaptive learns while it writes.",
        ),
    ]
    calibration: Annotated[
        str | None, typer.Option(help="Where thresholds come from: a name or a file.")
    ]
    ask_by: Annotated[
        str | None,
        typer.Option(
            metavar="uncertainty|head",
            help="uhlm, spec, handoff: what the threshold is of, u or the rejection that the "
            "calibration's head expects; reward always asks by the head.",
        ),
    ]
    rate: Annotated[float | None, typer.Option(help="rand: share of uploads.")]
    draft_limit: Annotated[
        str | None, typer.Option(help="spec, ensemble: drafts in one upload, or auto.")
    ]
    window: Annotated[
        int | None, typer.Option(help="handoff: tokens drafted unseen before it decides.")
    ]
    cloud_model: Annotated[
        str | None, typer.Option(help="handoff: name of the model at the endpoint.")
    ]
    partner: Annotated[
        list[str] | None,
        typer.Option(
            help="A second model on this device in place of a verifier; ensemble: as many as given."
        ),
    ]
    ensemble: Annotated[
        str | None, typer.Option(metavar="weighted|contrastive", help="ensemble: mix, or contrast.")
    ]
    weight: Annotated[
        list[float] | None,
        typer.Option(
            help="ensemble weighted: the device's share, 0 (all LLM) to 1 (all device); given "
            "again, each partner's. Those not given share what is left."
        ),
    ]
    mu: Annotated[
        float | None,
        typer.Option(
            help="ensemble contrastive: how strongly what the device likes is held against it, "
            "0 (not at all) to 10."
        ),
    ]
    alpha: Annotated[
        float | None,
        typer.Option(
            help="ensemble contrastive: only tokens with this share of the LLM's largest "
            "probability count (0: all)."
        ),
    ]
    coupling: Annotated[
        str | None,
        typer.Option(
            metavar="none|gumbel",
            help="gumbel: device and LLM draw by the same numbers. A draft stands when it is the "
            "LLM's own choice, uploads are a few bytes, and the text is the LLM's for that seed.",
        ),
    ]
    estimator: Annotated[
        str | None,
        typer.Option(
            metavar="sampled|expected",
            help="How u is measured: by --samples draws, or as what they are expected to give.",
        ),
    ]
    samples: Annotated[
        int | None,
        typer.Option(help="Draws behind each u, 1 to 256: more are less noisy and cost time."),
    ]
    measure: Annotated[
        bool | None,
        typer.Option(
            "--measure/--no-measure", help="Measure u also where the strategy does not ask for it."
        ),
    ]
    pipelined: Annotated[
        bool | None, typer.Option("--pipelined/--no-pipelined", help="Draft on during a call.")
    ]
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")]
    top_k: Annotated[int | None, typer.Option(help="0 is off.")]
    top_p: Annotated[float | None, typer.Option(help="1 is off.")]
    min_p: Annotated[float | None, typer.Option(help="0 is off.")]
    seed: Annotated[int | None, typer.Option(help="Of the random numbers: same seed, same draws.")]
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of a reply.")]
    system: Annotated[str | None, typer.Option(help="System message.")]
    engine: Annotated[
        str | None, typer.Option(metavar="llama|onnx", help="What runs the device model.")
    ]
    threads: Annotated[int | None, typer.Option(help="Threads for single tokens.")]
    gpu_layers: Annotated[int | None, typer.Option(help="Layers on the GPU; -1 is all.")]


class _AllFlags(_Flags):
    """With what only commands take that load both models."""

    llm: Annotated[
        str | None, typer.Option(help="The large model: a GGUF file, or a name that was pulled.")
    ]


_NAMED_ALIKE = {
    "strategy": (
        "threshold", "calibration", "ask_by", "rate", "draft_limit", "window", "partner",
        "ensemble", "weight", "mu", "alpha", "coupling", "estimator", "samples", "measure",
        "pipelined",
    ),
    "sampler": ("temperature", "top_k", "top_p", "min_p"),
    "chat": ("seed", "max_tokens", "system"),
}  # fmt: skip

FLAG_KEYS: dict[str, tuple[str, ...]] = {
    "model": ("device", "model"),
    "llm": ("verifier", "model"),
    "cloud": ("cloud", "url"),
    "cloud_model": ("cloud", "model"),
    "offline": ("cloud", "offline"),
    "require_cloud": ("cloud", "require"),
    "strategy": ("strategy", "name"),
    **{name: (section, name) for section, names in _NAMED_ALIKE.items() for name in names},
    "engine": ("device", "runtime"),
    "threads": ("device", "engine", "n_threads"),
    "gpu_layers": ("device", "engine", "n_gpu_layers"),
}
"""The key of the configuration that each flag sets."""


def conversation(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all flags of a conversation; see `configured`."""
    return configured(*_Flags.__annotations__)(command)


@functools.cache
def _flag_hints() -> dict[str, Any]:
    """Of all flags. It compiles each of them, and every command wants some."""
    return get_type_hints(_AllFlags, include_extras=True)


def command_hints(command: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a command's parameters, with what typer reads in them."""
    # Without the defaults: for one of None, Python 3.10 hides what is annotated in Optional.
    bare = SimpleNamespace(__annotations__=command.__annotations__)
    known = getattr(command, "__globals__", {})
    return get_type_hints(bare, known, {"Config": object}, include_extras=True)


def configured(*names: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command some of the shared flags, and always --profile and --config.

    The command takes `config: Config` first, made from the flags and the layers below them; its
    other parameters stay its own.
    """
    hints = _flag_hints()
    flags = {name: hints[name] for name in dict.fromkeys(["profile", "config_file", *names])}

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        own_hints = command_hints(command)
        own = [
            parameter.replace(annotation=own_hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in inspect.signature(command).parameters.items()
            if name != "config"
        ]
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
            for name, hint in flags.items()
        ]

        @functools.wraps(command)
        def with_flags(**given: Any) -> R:
            return command(_load({name: given.pop(name) for name in flags}), **given)

        with_flags.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        with_flags.__annotations__ = {p.name: p.annotation for p in [*own, *shared]}
        return with_flags

    return decorate


def _load(given: dict[str, Any]) -> Config:
    if given.get("pipelined") is not None:
        given["pipelined"] = "on" if given["pipelined"] else "off"
    given = {name: None if value == [] else value for name, value in given.items()}
    values: dict[tuple[str, ...], Any] = {key: given.get(flag) for flag, key in FLAG_KEYS.items()}
    profile = given["profile"]
    if given.get("pair") is not None:
        values |= {k: v for k, v in _pair(given).items() if values.get(k) is None}
        profile = profile or "pair"
    return load_and_tell(values, profile, given["config_file"]).config


def load_and_tell(
    flags: Mapping[tuple[str, ...], Any], profile: str | None, file: Path | None
) -> Loaded:
    """`load_config`, and what looks wrong on stderr."""
    from .layers import load_config

    loaded = load_config(flags, profile, file)
    for text in loaded.warnings:
        complain(text)
    return loaded


def _pair(given: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    """What --pair sets; the models are pulled if they are not here."""
    from ..models.catalogue import pairs
    from ..models.command import pull_missing

    name = given["pair"]
    if name not in (known := pairs()):
        raise UsageError(f"no pair named {name!r}; there are: {', '.join(known)}")
    device, llm = known[name]
    if given["cloud"] is not None or given["offline"]:
        pull_missing(device)
        return {("device", "model"): device}
    pull_missing(device, llm)
    return {("device", "model"): device, ("verifier", "model"): llm, ("cloud", "demo"): True}
