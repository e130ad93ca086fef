"""The `uhlm-edge` command: parse, build, call, print.

Heavy modules are imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .lm.errors import UhlmError, UsageError
from .lm.text import one_line

if TYPE_CHECKING:
    from .configs.layers import Loaded

__all__ = ["app", "main"]


class _Stopped(Exception):
    """Ctrl-C, or nobody reads stdout any more; the cause says which."""


class _Commands(typer.core.TyperGroup):
    """All commands. typer would end the process at what `main` has a message for."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, BrokenPipeError) as error:
            raise _Stopped from error


app = typer.Typer(
    cls=_Commands,
    name="uhlm-edge",
    help="A small model on the device that asks a large one in the cloud when it is unsure.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
config_app = typer.Typer(help="See the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")

# Options that several commands share. None means "not given": lower layers decide.
Profile = Annotated[str | None, typer.Option(help="Named profile (default: demo).")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Config file (TOML).")]
Model = Annotated[str | None, typer.Option(help="Device model: a GGUF file or a shipped name.")]
Cloud = Annotated[str | None, typer.Option(help="URL of a verifier.")]
Offline = Annotated[bool | None, typer.Option("--offline", help="Open no connection at all.")]
RequireCloud = Annotated[
    bool | None, typer.Option("--require-cloud", help="Fail (exit 4) without a verifier.")
]
StrategyOption = Annotated[
    str | None, typer.Option("--strategy", help="local, cloud, hlm, uhlm or rand.")
]
Threshold = Annotated[
    str | None, typer.Option(help="Upload when u exceeds it: a number, averse or prone.")
]
Rate = Annotated[float | None, typer.Option(help="Share of uploads of rand.")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy.")]
TopK = Annotated[int | None, typer.Option(help="0 is off.")]
TopP = Annotated[float | None, typer.Option(help="1 is off.")]
MinP = Annotated[float | None, typer.Option(help="0 is off.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same text.")]
MaxTokens = Annotated[int | None, typer.Option(help="Most tokens of a reply.")]
System = Annotated[str | None, typer.Option(help="System message.")]
Threads = Annotated[int | None, typer.Option(help="Threads for single tokens.")]
GpuLayers = Annotated[int | None, typer.Option(help="Layers on the GPU; -1 is all.")]
Pipelined = Annotated[
    bool | None, typer.Option("--pipelined/--no-pipelined", help="Draft on during a call.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Say which backend took the model.")]


@app.command()
def chat(
    profile: Profile = None,
    config: ConfigFile = None,
    model: Model = None,
    cloud: Cloud = None,
    offline: Offline = None,
    require_cloud: RequireCloud = None,
    strategy: StrategyOption = None,
    threshold: Threshold = None,
    rate: Rate = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    seed: Seed = None,
    max_tokens: MaxTokens = None,
    system: System = None,
    threads: Threads = None,
    gpu_layers: GpuLayers = None,
    pipelined: Pipelined = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Talk to the model. Without a terminal, each line of stdin is a turn."""
    from .edge.repl import chat as run_chat

    run_chat(_load(profile, config, _given(locals())).config, as_json=json, verbose=verbose)


@app.command()
def run(
    prompt: Annotated[str, typer.Argument(help="What to answer; - reads stdin.")],
    profile: Profile = None,
    config: ConfigFile = None,
    model: Model = None,
    cloud: Cloud = None,
    offline: Offline = None,
    require_cloud: RequireCloud = None,
    strategy: StrategyOption = None,
    threshold: Threshold = None,
    rate: Rate = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    seed: Seed = None,
    max_tokens: MaxTokens = None,
    system: System = None,
    threads: Threads = None,
    gpu_layers: GpuLayers = None,
    pipelined: Pipelined = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Answer one prompt; nothing but the answer goes to stdout."""
    from .edge.repl import answer, read_stdin

    text = read_stdin() if prompt == "-" else prompt
    answer(_load(profile, config, _given(locals())).config, text, as_json=json, verbose=verbose)


@app.command("cloud")
def cloud_command(
    profile: Profile = None,
    config: ConfigFile = None,
    model: Annotated[str | None, typer.Option(help="The large model: a GGUF file.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 is any free one.")] = None,
    sessions: Annotated[int | None, typer.Option(help="Conversations held at once.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="File with API keys, mode 600.")] = None,
    threads: Threads = None,
    gpu_layers: GpuLayers = None,
    fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    until_eof: Annotated[bool, typer.Option("--until-eof", hidden=True)] = False,
) -> None:
    """Run the verifier: the large model behind HTTP. The key comes from UHLM_API_KEY."""
    flags = {
        ("verifier", "model"): model,
        ("verifier", "host"): host,
        ("verifier", "port"): port,
        ("verifier", "sessions"): sessions,
        ("verifier", "key_file"): key_file,
        ("verifier", "engine", "n_threads"): threads,
        ("verifier", "engine", "n_gpu_layers"): gpu_layers,
    }
    options = _load(profile, config, flags).config.verifier
    try:
        from .cloud.command import run_verifier
    except ImportError as error:
        raise UsageError(f"{error.name} is missing; run: pip install 'uhlm-edge[cloud]'") from None
    run_verifier(options, fd, until_eof)


@config_app.command("show")
def config_show(profile: Profile = None, config: ConfigFile = None) -> None:
    """Print each value and where it came from."""
    for key, value, origin in _load(profile, config, {}).rows():
        typer.echo(f"{key} = {value!r}  # {origin}")


def _load(profile: str | None, file: Path | None, flags: dict[tuple[str, ...], Any]) -> Loaded:
    from .configs.layers import load_config

    return load_config(flags, profile, file)


def _given(options: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    """The flags of `chat` and `run` as keys of the configuration."""
    keys = {
        "model": ("device", "model"),
        "cloud": ("cloud", "url"),
        "offline": ("cloud", "offline"),
        "require_cloud": ("cloud", "require"),
        "strategy": ("strategy", "name"),
        "threshold": ("strategy", "threshold"),
        "rate": ("strategy", "rate"),
        "temperature": ("sampler", "temperature"),
        "top_k": ("sampler", "top_k"),
        "top_p": ("sampler", "top_p"),
        "min_p": ("sampler", "min_p"),
        "seed": ("chat", "seed"),
        "max_tokens": ("chat", "max_tokens"),
        "system": ("chat", "system"),
        "threads": ("device", "engine", "n_threads"),
        "gpu_layers": ("device", "engine", "n_gpu_layers"),
    }
    flags: dict[tuple[str, ...], Any] = {key: options[name] for name, key in keys.items()}
    if options["pipelined"] is not None:
        flags["strategy", "pipelined"] = "on" if options["pipelined"] else "off"
    return flags


def main() -> None:
    """Run the command. What a user can cause ends in one line and an exit code."""
    stdout_is_closed = sys.stdout is None
    _open_closed_streams()
    code = 0
    try:
        if stdout_is_closed and not {"cloud", "--help"} & set(sys.argv):
            raise UsageError("stdout is closed: there is nowhere to write to")
        app(prog_name="uhlm-edge")
    except UhlmError as error:
        _complain(str(error))
        code = error.exit_code
    except _Stopped as stopped:
        if isinstance(stopped.__cause__, KeyboardInterrupt):
            _complain("interrupted")
            code = 130
        else:
            # Python would complain again when it closes stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _complain("stdout was closed before everything was written; the rest is lost")
            code = 1
    sys.exit(code)


def _open_closed_streams() -> None:
    """Give stdin, stdout and stderr that were closed by whoever started us something harmless.

    Otherwise Python has None for them, and the next file or socket gets their number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # in this order, each gets the lowest number: its own
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _complain(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"uhlm-edge: {one_line(text)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
