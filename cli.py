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

from .bench.command import register as register_bench
from .calibrate.command import register as register_calibrate
from .common.errors import UhlmError, UsageError
from .common.text import one_line
from .configs.flags import conversation
from .models.command import register as register_models
from .quantize.command import register as register_quantize
from .quantize.onnx.command import register as register_onnx

if TYPE_CHECKING:
    from .configs.config import Config
    from .configs.layers import Loaded
    from .edge.link.http import Link

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

Profile = Annotated[str | None, typer.Option(help="Named profile (default: demo).")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Config file (TOML).")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Say which backend took the model.")]


@app.command()
@conversation
def chat(config: Config, json: Json = False, verbose: Verbose = False) -> None:
    """Talk to the model. Without a terminal, each line of stdin is a turn."""
    from .edge.chat.repl import chat as run_chat

    run_chat(config, _partner(config), as_json=json, verbose=verbose)


@app.command()
@conversation
def run(
    config: Config,
    prompt: Annotated[str, typer.Argument(help="What to answer; - reads stdin.")],
    json: Json = False,
    verbose: Verbose = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would leave the device; send nothing.")
    ] = False,
) -> None:
    """Answer one prompt; nothing but the answer goes to stdout."""
    from .edge.chat.repl import answer, read_stdin

    text = read_stdin() if prompt == "-" else prompt
    if dry_run:
        from .edge.chat.dry_run import dry_run as show_what_leaves

        show_what_leaves(config, text)
        return
    answer(config, text, _partner(config), as_json=json, verbose=verbose)


def _partner(config: Config) -> Link | None:
    """A second model in this process in place of a verifier, if one is configured."""
    if config.strategy.partner is None:
        return None
    from .edge.link.in_process import load_partner

    return load_partner(config)


@app.command("cloud")
def cloud_command(
    profile: Profile = None,
    config: ConfigFile = None,
    model: Annotated[str | None, typer.Option(help="The large model: a GGUF file.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 is any free one.")] = None,
    sessions: Annotated[int | None, typer.Option(help="Conversations held at once.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="File with API keys, mode 600.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads for single tokens.")] = None,
    gpu_layers: Annotated[int | None, typer.Option(help="Layers on the GPU; -1 is all.")] = None,
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


_PARTS = (register_calibrate, register_quantize, register_onnx, register_models, register_bench)
for register in _PARTS:
    register(app)


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
