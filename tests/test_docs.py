"""What the documents say is so: links lead somewhere, commands and examples run."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import uhlm_edge
from uhlm_edge import cli
from uhlm_edge.configs.layers import load_config
from uhlm_edge.shell.tree import Command, tree

from .commands import COMMAND, environment

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(uhlm_edge.__file__).parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_every_link_leads_to_a_file_of_the_project() -> None:
    broken = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def test_every_test_that_is_named_exists() -> None:
    """A row of the threat model whose test is gone promises something that nobody looks at."""
    for page in PAGES:
        for named in re.findall(r"`(tests/[^`*{}]+)`", page.read_text("utf-8")):
            path = ROOT / named
            found = [path] if path.is_file() else list(path.rglob("*"))
            assert found, f"{page.relative_to(ROOT)}: {named}"


def test_every_row_of_the_threat_model_names_its_test() -> None:
    rows = re.findall(r"^\| (?!who|---)(.*) \|$", (ROOT / "SECURITY.md").read_text("utf-8"), re.M)
    assert len(rows) > 10
    for row in rows:
        who, wants, holds, tests = row.split(" | ")
        assert all((who, wants, holds)), row
        assert re.search(r"`tests/", tests), row


def walks() -> dict[str, list[tuple[str, str]]]:
    """The functions of each walk of the architecture: file and name."""
    parts = re.split(r"^## ", (ROOT / "docs" / "architecture.md").read_text("utf-8"), flags=re.M)
    return {
        part.splitlines()[0]: re.findall(r"^\d+\. `(\S+)\.py` `(\S+)`", part, re.M)
        for part in parts[1:]
    }


def test_the_walks_of_the_architecture_pass_functions_that_are_there() -> None:
    prompt, upload = walks().values()
    assert 5 < len(prompt) <= 10
    assert 5 < len(upload) <= 12
    for file, name in [*prompt, *upload]:
        found: Any = importlib.import_module("uhlm_edge." + file.replace("/", "."))
        for part in name.split("."):
            found = getattr(found, part)
        assert callable(found)


def sessions() -> list[tuple[str, str]]:
    """Each command of the README's console blocks, with what it prints."""
    found = []
    for block in blocks(ROOT / "README.md", "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, printed = part.partition("\n")
            found.append((line, printed.rstrip("\n")))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("line", "printed"), sessions(), ids=lambda text: text[:40])
def test_the_readme_s_sessions_print_what_it_shows(line: str, printed: str, tmp_path: Path) -> None:
    command = line.replace("uhlm-edge", shlex.join(COMMAND))
    done = subprocess.run(
        ["/bin/sh", "-c", f"({command}) 2>&1"],
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        timeout=120,
        check=True,
    )
    assert without_speeds(done.stdout) == without_speeds(printed)
    sent, shown = ([int(n) for n in re.findall(r"(\d+) B up", t)] for t in (done.stdout, printed))
    assert sent == pytest.approx(shown, rel=0.05)


def without_speeds(text: str) -> list[str]:
    """Nor the bytes of the uplink: q's last bits are those of the processor's kernels."""
    text = re.sub(r"\d+ tokens/s", "N tokens/s", text)
    return re.sub(r"\d+ B up", "N B up", text).strip().splitlines()


def commands_of(page: Path) -> list[list[str]]:
    """Every call of the command in shell blocks and in code between the lines."""
    text = "\n".join(blocks(page, "sh")) + "\n"
    text += "\n".join(re.findall(r"`(uhlm-edge [^`]+)`", page.read_text("utf-8")))
    lines = re.findall(r"(?:^|\| )(?:\S+/)?uhlm-edge ([^|#\n]*)", text, re.MULTILINE)
    return [shlex.split(line.replace("'uhlm", '"uhlm').replace("...", "")) for line in lines]


def test_every_command_in_the_documents_exists_with_its_flags() -> None:
    root = tree(typer.main.get_command(cli.app), "uhlm-edge")
    unknown = []
    for page in PAGES:
        if page.name in ("cli.md", "decisions.md"):
            continue
        for words in commands_of(page):
            command: Command = root
            for word in words:
                command = next((c for c in command.subcommands if c.path[-1] == word), command)
            names = {name for option in command.options for name in option.names} | {"--help"}
            wrong = [w for w in words if w.startswith("--") and w.split("=")[0] not in names]
            if wrong or (words and command is root and not words[0].startswith("--")):
                unknown.append((page.name, words))
    assert not unknown


@pytest.mark.slow
def test_the_readme_s_lines_of_python_run(tmp_path: Path) -> None:
    (lines,) = blocks(ROOT / "README.md", "python")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", lines],
        capture_output=True, text=True, env=environment(tmp_path), timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "The capital of Peru is Lima." in done.stdout
    assert "bytes up" in done.stdout


def test_the_readme_s_configuration_is_valid() -> None:
    for block in blocks(ROOT / "README.md", "toml"):
        table = tomllib.loads(block)
        flat = {
            (section, *key): value
            for section, values in table.items()
            for key, value in leaves(values)
        }
        load_config(flat, environment={})


def leaves(table: dict[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, value in table.items():
        if isinstance(value, dict):
            found += [((name, *key), inner) for key, inner in leaves(value)]
        else:
            found.append(((name,), value))
    return found


@pytest.fixture
def examples() -> dict[str, str]:
    """The code of CONTRIBUTING.md by the title above it; each is under ten lines."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    found = dict(re.findall(r"^## (An? \w+)$[^#]*?```python\n(.*?)```", text, re.M | re.S))
    assert set(found) == {"A strategy", "An engine", "A command"}
    assert all(len(code.strip().splitlines()) < 10 for code in found.values())
    return found


def test_the_example_of_a_strategy_asks_about_every_nth_token(examples: dict[str, str]) -> None:
    from uhlm_edge.edge.policy import policies

    space = dict(vars(policies))
    exec(examples["A strategy"], space)  # noqa: S102
    policy = space["EveryNth"](3)

    class Draft:
        index = 0

    asked = []
    for Draft.index in range(7):
        asked.append(policy.upload(Draft, None))
    assert asked == [True, False, False, True, False, False, True]
    assert policy.audit_after is None


def test_the_example_of_an_engine_gives_even_rows(examples: dict[str, str]) -> None:
    from uhlm_edge.lm.engines import protocol

    from .fakes import FakeVocabulary

    space = {**vars(protocol), "Vocabulary": FakeVocabulary}
    exec(examples["An engine"], space)  # noqa: S102
    engine = space["Uniform"](FakeVocabulary())
    assert engine.eval([1, 2, 3], rows=2).shape == (2, 257)
    assert engine.length == 3


def test_the_example_of_a_command_is_one(examples: dict[str, str]) -> None:
    names = "from typing import Annotated\nimport typer\nfrom uhlm_edge.cli import app\n"
    names += "from uhlm_edge.configs.flags import conversation\n"
    code = examples["A command"].replace("from .", "from uhlm_edge.")
    space: dict[str, Any] = {}
    exec(names + "class Config: ...\n" + code, space)  # noqa: S102
    assert "tokens" in {command.callback.__name__ for command in space["app"].registered_commands}
    space["app"].registered_commands.pop()
