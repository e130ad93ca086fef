"""The shape of the project: its rooms, who may import whom, sizes, public names."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hypothesis import settings

import uhlm_edge

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(uhlm_edge.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = sorted(
    init.parent.relative_to(ROOT).as_posix().replace("/", ".")
    for init in ROOT.glob("[!.]*/**/__init__.py")
)
MODULES = sorted(
    [
        *ROOT.glob("*.py"),
        *(f for room in ROOMS for f in ROOT.glob(f"{room.replace('.', '/')}/*.py")),
    ]
)
SOURCES = sorted([*MODULES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("tools/*.py")])
NOTES = [file for kind in ("md", "toml", "svg") for file in ROOT.glob(f"[!.]*/**/*.{kind}")]
TEXTS = sorted([*SOURCES, *NOTES, *ROOT.glob("*.md"), ROOT / "pyproject.toml", ROOT / "Makefile"])
NOT_IN_THE_WHEEL = {"experiments"}

BASE = {"common", "lm", "models", "configs", "wire"}
MAY_IMPORT = {
    "common": set[str](),
    "lm": {"common"},
    "wire": {"common", "lm"},
    "models": {"common", "lm.gguf"},
    "configs": {"common", "lm", "models", "wire", "cloud.options"},
    "edge": {"common", "lm", "models", "configs", "wire"},
    "edge.link.in_process": {"cloud"},  # the verifier in the device's own process
    "cloud": {"common", "lm", "models", "wire"},
    "calibrate": {"common", "lm", "models", "configs", "edge"},
    "quantize": {"common", "lm", "models"},
    "shell": set[str](),
    "bench": {
        "common",
        "lm",
        "models",
        "configs",
        "wire",
        "edge",
        "cloud",
        "calibrate",
        "quantize",
    },
    "experiments": {*BASE, "edge", "cloud", "calibrate", "bench"},
}
"""Of a top-level room, or of one module beyond what its room may. The command line may all."""

LLAMA = re.compile(r"lm/engines/llama\w*\.py|quantize/([a-z]+/)*\w+\.py")
LONGEST = 400  # lines of a file
MOST = 15  # modules in a folder


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def imports(file: Path) -> Iterator[str]:
    """Yield what a module imports: `common.errors.UhlmError` of a neighbour, or `numpy.typing`."""
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


def room_of(imported: str) -> str | None:
    """The innermost room that something imported lies in."""
    return max((room for room in ROOMS if within(imported, room)), key=len, default=None)


def neighbours(file: Path) -> list[str]:
    return [i for i in imports(file) if room_of(i)]


def test_the_list_of_packages_equals_the_rooms() -> None:
    shipped = [room for room in ROOMS if room.split(".")[0] not in NOT_IN_THE_WHEEL]
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == ["uhlm_edge", *(f"uhlm_edge.{room}" for room in shipped)]
    assert {room.split(".")[0] for room in ROOMS} <= MAY_IMPORT.keys()


def test_imports_follow_the_arrows() -> None:
    wrong = []
    for file in MODULES:
        if file.parent == ROOT:
            continue
        own = name(file).split("/")[0]
        module = name(file).removesuffix(".py").replace("/", ".")
        allowed = {own, *MAY_IMPORT[own], *MAY_IMPORT.get(module, set())}
        wrong += [(module, i) for i in neighbours(file) if not any(within(i, a) for a in allowed)]
    assert not wrong


def test_no_rooms_import_each_other_in_a_circle() -> None:
    arrows: dict[str, set[str]] = {room: set() for room in ROOMS}
    for file in MODULES:
        own = room_of(name(file).removesuffix(".py").replace("/", "."))
        if own is not None:
            arrows[own] |= {room for i in neighbours(file) if (room := room_of(i)) and room != own}
    while leaves := [room for room, seen in arrows.items() if not seen & arrows.keys()]:
        for room in leaves:
            del arrows[room]
    assert not arrows


def test_neighbours_are_imported_relatively() -> None:
    absolute = re.compile(r"^\s*(from|import) uhlm_edge\b", re.MULTILINE)
    assert not [name(f) for f in MODULES if absolute.search(f.read_text(encoding="utf-8"))]


def test_llama_cpp_has_few_importers() -> None:
    importers = [name(f) for f in MODULES if any(within(i, "llama_cpp") for i in imports(f))]
    assert not [importer for importer in importers if not LLAMA.fullmatch(importer)]


def test_files_and_folders_stay_short() -> None:
    lines = {name(f): len(f.read_text(encoding="utf-8").splitlines()) for f in SOURCES}
    assert not {file: n for file, n in lines.items() if n > LONGEST}
    folders = Counter(f.parent for f in MODULES)
    assert not {name(folder): n for folder, n in folders.items() if n > MOST}


def test_the_loop_is_read_in_one_sitting() -> None:
    assert len((ROOT / "edge" / "decode" / "loop.py").read_text("utf-8").splitlines()) <= 200


def test_no_path_of_somebody_s_machine() -> None:
    somewhere = re.compile(r"(?<![\w.~])/(?:work|root|home/\w|Users/\w)\b")
    assert not [name(f) for f in TEXTS if somewhere.search(f.read_text(encoding="utf-8"))]


def test_tests_are_no_packages() -> None:
    assert not list(ROOT.glob("tests/**/__init__.py"))


def test_no_test_of_properties_has_a_deadline() -> None:
    """Slow boards and emulators run the same suite."""
    assert settings.default is not None
    assert settings.default.deadline is None
