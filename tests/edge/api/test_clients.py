"""Programs that know OpenAI's API and nothing of this project, as the documents say to use them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import uhlm_edge

from ...commands import environment
from .running import as_command

ROOT = Path(uhlm_edge.__file__).parent
HERE = "127.0.0.1:8080"
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
LLM = shutil.which("llm", path=PATH)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("home")
    with as_command(home, "--offline", "--seed", "1") as url:
        yield url.removeprefix("http://")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def shell(script: str, address: str, home: Path) -> str:
    assert HERE in script or "llm" in script
    done = subprocess.run(
        ["sh", "-e", "-c", script.replace(HERE, address)],
        capture_output=True, text=True, check=False, timeout=300,
        env=environment(home, PATH=PATH, LLM_USER_PATH=str(home)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
@pytest.mark.parametrize("page", ["README.md", "docs/guides/serve.md"])
def test_the_curl_of_a_document_is_answered(page: str, address: str, tmp_path: Path) -> None:
    (script,) = [block for block in blocks(page, "sh") if "curl " in block]
    answer = json.loads(shell(script[script.index("curl ") :], address, tmp_path))
    (choice,) = answer["choices"]
    said = choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    if "response_format" in script:
        assert list(json.loads(said)) == ["city"]
    else:
        assert said == "The capital of Peru is Lima."


def test_the_python_of_the_guide_runs(address: str, tmp_path: Path) -> None:
    (program,) = blocks("docs/guides/serve.md", "python")
    done = subprocess.run(
        [sys.executable, "-c", program.replace(HERE, address)],
        capture_output=True, text=True, check=False, timeout=300, env=environment(tmp_path),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "The capital of Peru is Lima.\n"), done.stderr


@pytest.mark.skipif(LLM is None, reason="llm is not installed: make test-clients")
def test_llm_asks_goes_on_and_gets_what_obeys_its_schema(address: str, tmp_path: Path) -> None:
    (models,) = blocks("docs/guides/serve.md", "yaml")
    (script,) = [block for block in blocks("docs/guides/serve.md", "sh") if "llm " in block]
    (tmp_path / "extra-openai-models.yaml").write_text(models.replace(HERE, address), "utf-8")
    asked, went_on, schema = script.splitlines()
    assert shell(asked, address, tmp_path) == "The capital of Peru is Lima.\n"
    assert "Santiago" in shell(went_on, address, tmp_path)
    described = json.loads(shell(schema, address, tmp_path))
    assert list(described) == ["people", "capital"]
    assert isinstance(described["people"], int)
    assert "demo-slm" in shell("llm logs --json", address, tmp_path)  # it knows who answered
