"""`uhlm-edge calibrate`: what it takes and what it prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..common.streams import emit

if TYPE_CHECKING:
    from ..edge.policy.calibration import EstimatorName, ModelKey
    from ..lm.engines.llama import LlamaEngine
    from .run import Result

__all__ = ["calibrate", "register"]

Profile = Annotated[str | None, typer.Option(help="Named profile (default: demo).")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Config file (TOML).")]


def register(app: typer.Typer) -> None:
    """Add `calibrate` to the application."""
    app.command("calibrate")(calibrate)


def calibrate(
    prompts: Annotated[
        str, typer.Option(help="JSON lines, a .txt of prompts, or the shipped tasks or dialogues.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write, NAME.json (default: beside your config).")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Device model: GGUF or shipped name.")] = None,
    cloud_model: Annotated[
        str | None, typer.Option(help="Cloud model, on this machine: GGUF or shipped name.")
    ] = None,
    profile: Profile = None,
    config: ConfigFile = None,
    temperature: Annotated[float, typer.Option(help="Of both models.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="0: off.")] = 0,
    top_p: Annotated[float, typer.Option(help="1: off.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="0: off.")] = 0.0,
    samples: Annotated[int, typer.Option(min=1, help="K, perturbed samples per draft.")] = 20,
    estimator: Annotated[str, typer.Option(help="Of the head's u: sampled or expected.")] = (
        "sampled"
    ),
    replies: Annotated[int, typer.Option(min=1, help="Replies to each prompt.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 128,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    risk: Annotated[float, typer.Option(help="Target of the risk threshold, per token.")] = 0.001,
    head: Annotated[bool, typer.Option(help="Train the reward head.")] = True,
    plot: Annotated[bool, typer.Option(help="Draw the pictures.")] = True,
) -> None:
    """Measure how uncertainty foretells rejection for a pair, and write thresholds and head."""
    import importlib.util

    from pydantic import ValidationError

    from ..common.errors import ResourceError, UsageError
    from ..common.prompts import shipped_prompts
    from ..configs.layers import config_folder, load_config
    from ..lm.engines.llama import LlamaEngine
    from ..lm.sampling import Sampler
    from ..lm.vocabulary import require_same
    from ..models.resolve import find_model
    from .plot import draw
    from .run import Pair, rows_path
    from .run import calibrate as run
    from .shadow import Setting

    if estimator not in ("sampled", "expected"):
        raise UsageError(f"--estimator {estimator}: use sampled or expected")
    chosen: EstimatorName = "expected" if estimator == "expected" else "sampled"
    if not 0.0 < risk < 1.0:
        raise UsageError("--risk must lie between 0 and 1")
    source = shipped_prompts(prompts)
    target = out or config_folder() / "calibrations" / f"{source.stem}.json"
    if target.suffix != ".json":
        raise UsageError(f"--out {target}: the name must end with .json")
    loaded = load_config({}, profile, config).config
    try:
        sampler = Sampler(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--{first['loc'][0]}: {first['msg']}".replace("_", "-")) from None
    if sampler.greedy:
        raise UsageError("--temperature 0 leaves no law to compare; use one above 0")
    setting = Setting(
        sampler=sampler,
        wire_top=loaded.device.wire_top,
        k=samples,
        seed=seed,
        max_tokens=max_tokens,
        replies=replies,
    )
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
    cloud = LlamaEngine(paths[1], loaded.verifier.engine, max_rows=max_tokens)
    try:
        require_same(
            device.vocab.fingerprint,
            cloud.vocab.fingerprint,
            device.model.name,
            cloud.model.name,
        )
        pair = Pair(device, cloud, _key(device), _key(cloud))
        with _progress() as advance:
            result = run(pair, source, target, setting, risk, chosen, head, advance)
    except KeyboardInterrupt:
        _say(f"stopped; the same command goes on from {rows_path(target)}")
        raise
    except OSError as error:
        raise ResourceError(f"{error.filename or target}: {error.strerror or error}") from None
    finally:
        device.close()
        cloud.close()
    pictures = draw(result, target) if plot else []
    _print(result, target, pictures)


def _key(engine: LlamaEngine) -> ModelKey:
    from ..edge.policy.calibration import ModelKey, model_digest

    return ModelKey(
        name=engine.model.name,
        vocabulary=engine.vocab.fingerprint,
        digest=model_digest(engine.model.path),
    )


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    bar = Progress(
        "shadow run", BarColumn(), MofNCompleteColumn(), "replies", TimeRemainingColumn(),
        console=Console(stderr=True), transient=True, refresh_per_second=2,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


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
