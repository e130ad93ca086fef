"""`uhlm-edge calibrate`: what it takes and what it prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common.errors import UsageError
from ..common.streams import emit
from ..configs.flags import ConfigFile, Profile

if TYPE_CHECKING:
    from ..edge.policy.calibration import EstimatorName, ModelKey
    from ..lm.engines.llama import LlamaEngine
    from .run import Result

WHOLE: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
"""The models' own distributions: what thresholds are measured under unless told."""


def calibrate(
    prompts: Annotated[
        list[str],
        typer.Option(
            help="JSON lines, a .txt of prompts, or the shipped tasks or dialogues. Repeat it for "
            "a calibration of each text and one head that learns from all of them."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write, NAME.json; of several texts the folder (default: beside your "
            "config)."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Device model: GGUF or shipped name.")] = None,
    cloud_model: Annotated[
        str | None,
        typer.Option(
            help="Cloud model, on this machine: GGUF or shipped name; with --cloud, its name there."
        ),
    ] = None,
    handoff: Annotated[
        bool,
        typer.Option(
            "--handoff",
            help="Choose the threshold of strategy handoff instead, by accuracy: the prompts need "
            "answers.",
        ),
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(
            "--cloud", help="--handoff: URL of the endpoint (default: --cloud-model, here)."
        ),
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="--handoff: tokens drafted unseen before it decides.")
    ] = None,
    ask_by: Annotated[
        str | None,
        typer.Option(
            metavar="uncertainty|head",
            help="--handoff: by the mean u, or by the reward head of a pair's calibration.",
        ),
    ] = None,
    profile: Profile = None,
    config: ConfigFile = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Of both models (default: 1; with --handoff as configured, so too below)."
        ),
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="0: off (default).")] = None,
    top_p: Annotated[float | None, typer.Option(help="1: off (default).")] = None,
    min_p: Annotated[float | None, typer.Option(help="0: off (default).")] = None,
    samples: Annotated[int, typer.Option(min=1, help="K, perturbed samples per draft.")] = 20,
    estimator: Annotated[str, typer.Option(help="Of the head's u: sampled or expected.")] = (
        "sampled"
    ),
    replies: Annotated[
        list[int], typer.Option(min=1, help="Replies to each prompt: once, or for each text.")
    ] = [1],  # noqa: B006 - typer reads it and nobody changes it
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 128,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    risk: Annotated[float, typer.Option(help="Target of the risk threshold, per token.")] = 0.001,
    head: Annotated[bool, typer.Option(help="Train the reward head.")] = True,
    plot: Annotated[bool, typer.Option(help="Draw the pictures.")] = True,
) -> None:
    """Measure how uncertainty foretells rejection for a pair, and write thresholds and head."""
    given_sampler = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    if handoff:
        given: dict[tuple[str, ...], Any] = {
            ("device", "model"): model,
            ("cloud", "url"): url,
            ("cloud" if url else "verifier", "model"): cloud_model,
            ("strategy", "window"): window,
            ("strategy", "ask_by"): ask_by,
            ("strategy", "samples"): samples,
            ("strategy", "estimator"): estimator,
            ("chat", "max_tokens"): max_tokens,
            **{("sampler", name): value for name, value in given_sampler.items()},
        }
        if len(prompts) > 1:
            raise UsageError("--handoff chooses one threshold: give --prompts once")
        _handoff(prompts[0], out, given, profile, config, seed)
        return
    if url is not None or window is not None:
        raise UsageError("--cloud and --window belong to --handoff")
    import importlib.util
    from dataclasses import replace

    from pydantic import ValidationError

    from ..common.errors import ResourceError
    from ..common.prompts import read_prompts, shipped_prompts
    from ..configs.layers import config_folder, load_config
    from ..lm.engines.llama import LlamaEngine
    from ..lm.sampling import Sampler
    from ..lm.vocabulary import require_same
    from ..models.resolve import find_model
    from .fit import require_enough
    from .plot import draw
    from .rows import rows_path
    from .run import Pair, Text
    from .run import calibrate as run
    from .shadow import Setting

    if estimator not in ("sampled", "expected"):
        raise UsageError(f"--estimator {estimator}: use sampled or expected")
    chosen: EstimatorName = "expected" if estimator == "expected" else "sampled"
    if not 0.0 < risk < 1.0:
        raise UsageError("--risk must lie between 0 and 1")
    sources = [shipped_prompts(text) for text in prompts]
    targets = _targets(sources, out, config_folder() / "calibrations")
    if len(replies) not in (1, len(sources)):
        raise UsageError("--replies: give it once, or once for each --prompts")
    loaded = load_config({}, profile, config).config
    try:
        sampler = Sampler(**{**WHOLE, **{k: v for k, v in given_sampler.items() if v is not None}})
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--{first['loc'][0]}: {first['msg']}".replace("_", "-")) from None
    if sampler.greedy:
        raise UsageError("--temperature 0 leaves no distributions to compare; use one above 0")
    setting = Setting(
        sampler=sampler,
        wire_top=loaded.device.wire_top,
        k=samples,
        seed=seed,
        max_tokens=max_tokens,
    )
    counts = replies * len(sources) if len(replies) == 1 else replies
    texts = [
        Text(source, target, replace(setting, replies=count))
        for source, target, count in zip(sources, targets, counts, strict=True)
    ]
    for source in sources:  # before all else
        require_enough(len({case.conversation for case in read_prompts(source)}))
    if head and importlib.util.find_spec("onnx") is None:
        _say("onnx is not installed, so no reward head: pip install 'uhlm-edge[quantize]'")
        head = False
    if plot and importlib.util.find_spec("matplotlib") is None:
        _say("matplotlib is not installed, so no pictures: pip install 'uhlm-edge[bench]'")
        plot = False
    paths = (
        find_model(model or loaded.device.model),
        find_model(cloud_model or loaded.verifier.model),
    )
    device = LlamaEngine(paths[0], loaded.device.engine)
    cloud = LlamaEngine(paths[1], loaded.verifier.engine)
    try:
        with closing(device), closing(cloud), _progress() as advance:
            require_same(
                device.vocab.fingerprint, cloud.vocab.fingerprint,
                device.model.name, cloud.model.name,
            )  # fmt: skip
            pair = Pair(device, cloud, _key(device), _key(cloud))
            results = run(pair, texts, risk, chosen, head, advance)
    except KeyboardInterrupt:
        _say(f"stopped; the same command goes on from {rows_path(targets[0])}")
        raise
    except OSError as error:
        raise ResourceError(f"{error.filename or targets}: {error.strerror or error}") from None
    for result, target in zip(results, targets, strict=True):
        _print(result, target, draw(result, target) if plot else [])


def _targets(sources: Sequence[Path], out: Path | None, folder: Path) -> list[Path]:
    """The file of each text."""
    if len(sources) == 1 and out is not None:
        if out.suffix != ".json":
            raise UsageError(f"--out {out}: the name must end with .json")
        return [out]
    targets = [(out or folder) / f"{source.stem}.json" for source in sources]
    if len(set(targets)) < len(targets):
        raise UsageError("--prompts: two texts of one name; their calibrations would be one file")
    return targets


def _handoff(
    prompts: str,
    out: Path | None,
    given: dict[tuple[str, ...], Any],
    profile: str | None,
    config: Path | None,
    seed: int,
) -> None:
    """The other kind of calibration: when a whole reply is handed over."""
    from ..common.prompts import shipped_prompts
    from ..configs.layers import config_folder, load_config
    from ..edge.policy.handoff_calibration import HANDOFF
    from .handoff import describe
    from .handoff_command import run_handoff
    from .rows import rows_path

    source = shipped_prompts(prompts)
    by = "-head" if given["strategy", "ask_by"] == "head" else ""
    target = out or config_folder() / "calibrations" / f"{source.stem}{by}{HANDOFF}"
    if not target.name.endswith(HANDOFF):
        target = target.with_name(target.name.removesuffix(".json") + HANDOFF)
    loaded = load_config(given, profile, config).config
    try:
        with _progress() as advance:
            made = run_handoff(loaded, source, target, seed, advance)
    except KeyboardInterrupt:
        _say(f"stopped; the same command goes on from {rows_path(target)}")
        raise
    emit(describe(made), end="")
    _say(f"wrote {target}")


def _key(engine: LlamaEngine) -> ModelKey:
    from ..edge.policy.calibration import ModelKey, model_digest

    return ModelKey(
        name=engine.model.name,
        vocabulary=engine.vocab.fingerprint,
        digest=model_digest(engine.model.path),
    )


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, or lines where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _tenths()
        return
    bar = Progress(
        "shadow run", BarColumn(), MofNCompleteColumn(), "replies", TimeRemainingColumn(),
        console=console, transient=True, refresh_per_second=2,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _tenths() -> Callable[[int, int], None]:
    """For a log or a pipe: a line at each tenth."""
    last = -1

    def advance(done: int, total: int) -> None:
        nonlocal last
        if (tenth := 10 * done // max(total, 1)) > last:
            last = tenth
            _say(f"{done} of {total} replies")

    return advance


def _print(result: Result, target: Path, pictures: list[Path]) -> None:
    """The result on stdout; what was written and what to beware of on stderr."""
    from .run import describe

    emit(describe(result.calibration), end="")
    for path in (target, *pictures):
        _say(f"wrote {path}")
    for name, law in result.calibration.laws.items():
        if law.advice is not None:
            _say(f"{name} u: {law.advice}")


def _say(text: str) -> None:
    emit(text, err=True)
