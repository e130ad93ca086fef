"""The shape of the project: its packages, who may import whom, sizes, public names."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import uhlm_edge

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(uhlm_edge.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = sorted(init.parent.name for init in ROOT.glob("*/__init__.py"))
MODULES = sorted([*ROOT.glob("*.py"), *(file for p in PACKAGES for file in ROOT.glob(f"{p}/*.py"))])
SOURCES = sorted([*MODULES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("tools/*.py")])
NOTES = [file for kind in ("md", "toml", "svg") for file in ROOT.glob(f"[!.]*/**/*.{kind}")]
TEXTS = sorted([*SOURCES, *NOTES, *ROOT.glob("*.md"), ROOT / "pyproject.toml", ROOT / "Makefile"])

MAY_IMPORT = {
    "lm": {"models"},
    "models": {"lm.errors"},
    "configs": {"lm", "models", "cloud.options"},
    "edge": {"lm", "models", "configs", "cloud.wire", "cloud.codec"},
    "cloud": {"lm", "models"},
    "quantize": {"lm", "models"},
    "bench": {"lm", "models", "configs", "edge", "cloud", "quantize"},
}
LLAMA = re.compile(r"lm/llama\w*\.py|quantize/\w+\.py")
LONGEST = 400  # lines


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def imports(file: Path) -> Iterator[str]:
    """Yield what a module imports: `lm.errors.ModelError` for a neighbour, else `numpy.typing`."""
    package = ["uhlm_edge", *file.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = [*base, *(node.module or "").split(".")]
            for alias in node.names:
                yield ".".join(filter(None, [*base, alias.name])).removeprefix("uhlm_edge.")


def within(imported: str, allowed: str) -> bool:
    return f"{imported}.".startswith(f"{allowed}.")


def test_the_list_of_packages_equals_the_folders() -> None:
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == ["uhlm_edge", *(f"uhlm_edge.{package}" for package in PACKAGES)]
    assert MAY_IMPORT.keys() == set(PACKAGES)


def test_no_package_hides_in_a_package() -> None:
    assert not [name(init) for package in PACKAGES for init in ROOT.glob(f"{package}/*/**/*.py")]


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_imports_follow_the_arrows(file: Path) -> None:
    own = file.parent.name if file.parent != ROOT else ""
    allowed = {own, *MAY_IMPORT[own]} if own else set(PACKAGES)
    neighbours = [i for i in imports(file) if i.split(".")[0] in PACKAGES]
    assert not [i for i in neighbours if not any(within(i, a) for a in allowed)]


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_neighbours_are_imported_relatively(file: Path) -> None:
    absolute = re.compile(r"^\s*(from|import) uhlm_edge\b", re.MULTILINE)
    assert not absolute.search(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_llama_cpp_has_few_importers(file: Path) -> None:
    if any(within(i, "llama_cpp") for i in imports(file)):
        assert LLAMA.fullmatch(name(file))


@pytest.mark.parametrize("file", SOURCES, ids=name)
def test_files_stay_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_all_lists_what_is_public(file: Path) -> None:
    body = ast.parse(file.read_bytes()).body
    listed = [
        ast.literal_eval(node.value)
        for node in body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    defined = [
        node.name
        for node in body
        if isinstance(node, ast.ClassDef)
        or (isinstance(node, ast.FunctionDef) and not node.decorator_list)  # a command of the app
    ]
    for public in listed:
        assert not [d for d in defined if not d.startswith("_") and d not in public]


@pytest.mark.parametrize("file", TEXTS, ids=name)
def test_no_path_of_somebody_s_machine(file: Path) -> None:
    somewhere = re.compile(r"(?<![\w.~])/(?:work|root|home/\w|Users/\w)\b")
    assert not somewhere.findall(file.read_text(encoding="utf-8"))


def test_tests_are_no_packages() -> None:
    assert not list(ROOT.glob("tests/**/__init__.py"))
