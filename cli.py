"""The `uhlm-edge` command: parse, build, call, print.

Heavy modules are imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import __version__
from .bench.command import bench_app
from .calibrate.command import calibrate
from .common.errors import ConfigError, UhlmError, UsageError
from .common.streams import complain, discard_stdout, emit, open_closed_streams, write_failure
from .configs.flags import ConfigFile, Profile, conversation, load_and_tell
from .lm.engines.llama_files import prepare_process
from .models.command import inspect, models_app, pull
from .quantize.command import quantize
from .quantize.onnx.command import onnx

if TYPE_CHECKING:
    from .configs.config import Config
    from .edge.link.protocol import Link
    from .shell.tree import Command


class _Stopped(Exception):
    """Ctrl-C, or stdout takes no more."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """Turn what ends a command from outside into `_Stopped`."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise _Stopped("interrupted", 130) from error
    except OSError as error:
        if (text := write_failure(error)) is None:
            raise
        raise _Stopped(text, 1) from error


_Misuse: Any = typer.BadParameter.__base__
"""What the parser raises; typer gives it no name of its own."""


class _Commands(typer.core.TyperGroup):
    """All commands. typer would end the process at what `main` has a message for."""

    def main(self, *args: Any, **more: Any) -> Any:
        """Say what is wrong with the command line as everything else is said, in one line."""
        from .shell.misuse import misuse

        try:
            code = super().main(*args, **{**more, "standalone_mode": False})
        except _Misuse as error:
            code = 2
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()
            else:
                complain(misuse(error.format_message()))
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        with _stopping():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    name="uhlm-edge",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"uhlm-edge {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """A small model on the device that asks a large one in the cloud when it is unsure."""


config_app = typer.Typer(help="See the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")

Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Say which backend took the model; show the link's log.")
]


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
    prompt: Annotated[
        str | None, typer.Argument(help="What to answer; data from a pipe is its context.")
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would leave the device; send nothing.")
    ] = False,
    prompts: Annotated[
        Path | None, typer.Option(help="Many prompts, as JSON lines or a line each (.txt).")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="For --prompts: file of JSON lines; what it holds is not done again."),
    ] = None,
    template: Annotated[
        Path | None, typer.Option(help="File of text in which {prompt} stands for the prompt.")
    ] = None,
    grammar: Annotated[
        Path | None,
        typer.Option(help="File of GBNF that answers must match; the device writes them alone."),
    ] = None,
    json_schema: Annotated[
        Path | None, typer.Option(help="The same by a JSON schema: answers are JSON that obeys it.")
    ] = None,
) -> None:
    """Answer one prompt, or those of a file; nothing but the answer goes to stdout."""
    from .edge.chat.binding import read_files
    from .edge.chat.piped import filled, question
    from .edge.chat.repl import answer

    bound_to = read_files(grammar, json_schema)

    if prompts is not None:
        from .edge.chat.batch import batch

        one = {"a prompt": prompt is not None, "--template": template, "--dry-run": dry_run}
        if wrong := [name for name, given in one.items() if given]:
            raise UsageError(f"--prompts answers the rows of a file: leave out {wrong[0]}")
        batch(config, prompts, out, _partner(config), bound_to)
        return
    if out is not None:
        raise UsageError("--out belongs to --prompts; the answer to one prompt is on stdout")
    text = filled(template, question(prompt))
    if dry_run:
        from .edge.chat.dry_run import dry_run as show_what_leaves

        show_what_leaves(config, text)
        return
    answer(config, text, _partner(config), as_json=json, verbose=verbose, grammar=bound_to)


@app.command()
@conversation
def serve(
    config: Config,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 is any free one.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="File with API keys, mode 600.")] = None,
    queue: Annotated[int | None, typer.Option(help="Requests that may wait.")] = None,
) -> None:
    """Serve the device to programs (OpenAI's API) and browsers. The key: UHLM_SERVE_KEY."""
    from .configs.layers import changed

    given = {"host": host, "port": port, "key_file": key_file, "queue": queue}
    values: dict[tuple[str, ...], Any] = {
        ("serve", name): value for name, value in given.items() if value is not None
    }
    try:
        from .edge.api.server import serve as run_server
    except ImportError as error:
        raise UsageError(f"{error.name} is missing; run: pip install 'uhlm-edge[serve]'") from None
    config = changed(config, values, "flag")
    run_server(config, _partner(config))


def _partner(config: Config) -> Link | None:
    """A second model in this process in place of a verifier, if one is configured."""
    if not config.strategy.partner or config.strategy.name == "ensemble":
        return None  # an ensemble's partners are no verifier
    if len(config.strategy.partner) > 1:
        raise ConfigError("several partners make an ensemble: give --strategy ensemble, or one")
    from .edge.link.in_process import load_partner

    return load_partner(config)


@app.command("cloud")
def cloud_command(
    profile: Profile = None,
    config: ConfigFile = None,
    model: Annotated[str | None, typer.Option(help="The large model: a GGUF file.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 is any free one.")] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="llama|vllm|sglang",
            help="What runs the model: llama.cpp here, or a server of vLLM or SGLang (--upstream).",
        ),
    ] = None,
    upstream: Annotated[
        str | None, typer.Option(help="URL of the vLLM or SGLang server that runs the model.")
    ] = None,
    sessions: Annotated[int | None, typer.Option(help="Conversations held at once.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="File with API keys, mode 600.")] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="Speak TLS with it; `uhlm-edge certificate` makes one.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
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
        ("verifier", "runtime"): engine,
        ("verifier", "upstream", "url"): upstream,
        ("verifier", "sessions"): sessions,
        ("verifier", "key_file"): key_file,
        ("verifier", "tls_certificate"): tls_certificate,
        ("verifier", "tls_key"): tls_key,
        ("verifier", "engine", "n_threads"): threads,
        ("verifier", "engine", "n_gpu_layers"): gpu_layers,
    }
    options = load_and_tell(flags, profile, config).config.verifier
    try:
        from .cloud.command import run_verifier
    except ImportError as error:
        raise UsageError(f"{error.name} is missing; run: pip install 'uhlm-edge[cloud]'") from None
    run_verifier(options, fd, until_eof)


@app.command()
def certificate(
    hosts: Annotated[
        list[str], typer.Argument(help="Names and addresses by which devices reach the server.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to (default: beside your config).")
    ] = None,
) -> None:
    """Make a certificate of your own for a server at home. Needs openssl."""
    from .common.keys import make_certificate
    from .configs.layers import config_folder

    made, key = make_certificate(hosts, out or config_folder())
    emit(str(made))
    complain(f"wrote {made} and {key}; here: --tls-certificate {made} --tls-key {key}")
    complain(f"on each device: a copy of {made.name}, as ca_file in [cloud] or UHLM_CLOUD_CA_FILE")


@app.command()
def doctor(
    profile: Profile = None,
    config: ConfigFile = None,
    model: Annotated[str | None, typer.Option(help="Device model.")] = None,
    cloud: Annotated[str | None, typer.Option(help="URL of a verifier.")] = None,
    offline: Annotated[bool | None, typer.Option("--offline", help="Open no connection.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Look at this machine, the build, the model and the verifier: what is wrong, what to do."""
    from .edge.doctor.command import Doctor, run_doctor

    flags: dict[tuple[str, ...], Any] = {
        ("device", "model"): model,
        ("cloud", "url"): cloud,
        ("cloud", "offline"): offline,
    }
    run_doctor(Doctor(), flags, profile, config, json)


@app.command()
def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="Which shell.")],
) -> None:
    """Print a completion script: eval "$(uhlm-edge completion bash)", or keep it in a file."""
    from .shell.completion import SHELLS
    from .shell.completion import completion as script

    if shell not in SHELLS:
        raise UsageError(f"no completion for {shell}; there is one for {', '.join(SHELLS)}")
    emit(script(_tree(), shell), end="")


@app.command()
def man() -> None:
    """Print the manual page: uhlm-edge man | man -l -"""
    emit(pages("man"), end="")


def pages(form: Literal["man", "markdown"]) -> str:
    """The manual of all commands."""
    from .shell.pages import man_page, reference

    return man_page(_tree(), __version__) if form == "man" else reference(_tree())


def _tree() -> Command:
    from .shell.tree import tree

    return tree(typer.main.get_command(app), "uhlm-edge")


@config_app.command("show")
def config_show(profile: Profile = None, config: ConfigFile = None) -> None:
    """Print each value and where it came from."""
    for key, value, origin in load_and_tell({}, profile, config).rows():
        emit(f"{key} = {value!r}  # {origin}")


for _command in (calibrate, quantize, onnx, pull, inspect):
    app.command()(_command)
app.add_typer(models_app, name="models")
app.add_typer(bench_app, name="bench")


def main() -> None:
    """Run the command. What a user can cause ends in one line and an exit code."""
    stdout_is_closed = sys.stdout is None
    open_closed_streams()
    prepare_process()
    try:
        if stdout_is_closed and not {"cloud", "--help"} & set(sys.argv):
            raise UsageError("stdout is closed: there is nowhere to write to")
        code = _run()
    except UhlmError as error:
        complain(str(error))
        code = error.exit_code
    except _Stopped as stopped:
        discard_stdout()
        complain(str(stopped))
        code = stopped.code
    sys.exit(code)


def _run() -> int:
    """The command's exit code, once all that it wrote has arrived."""
    code = 0
    with _stopping():
        try:
            app(prog_name="uhlm-edge")
        except SystemExit as ended:
            if not isinstance(ended.code, int):
                raise
            code = ended.code
        sys.stdout.flush()
    return code


if __name__ == "__main__":
    main()
