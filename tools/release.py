"""Put what is released into a folder: `python tools/release.py FOLDER`.

The project's wheel, the archives for boards that lie there already (`make wheel-arm64`), a bill of
materials of what `pip install uhlm-edge[cloud,serve]` brings (CycloneDX, with the versions that are
installed where this runs), and the checksums of all.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("cloud", "serve")
NAME = "uhlm-edge"


def main(folder: Path) -> int:
    """Make the release; return a status."""
    version = released_version()
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("uhlm_edge-*.whl"), *folder.glob("*.cdx.json")]:
        old.unlink()
    build_wheel(folder)
    write_bill(folder / f"{NAME}-{version}.cdx.json")
    files = sorted(f for f in folder.iterdir() if f.suffix in (".whl", ".tar", ".json"))
    strange = [file.name for file in files if f"-{version}" not in file.name]
    if strange:
        print(f"release: not of version {version}: {', '.join(strange)}", file=sys.stderr)
        return 1
    sums = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files]
    (folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    print("".join(sums), end="")
    return 0


def released_version() -> str:
    """The version of the package; a release must be in the list of changes."""
    text = (ROOT / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise SystemExit("release: __init__.py says no version")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if f"## {match[1]}" not in changes:
        print(f"release: CHANGELOG.md has no heading '## {match[1]}' yet", file=sys.stderr)
    return match[1]


def build_wheel(folder: Path) -> None:
    """The project's wheel, from a copy: a build leaves a folder behind."""
    with tempfile.TemporaryDirectory() as scratch:
        ignored = shutil.ignore_patterns(
            ".*", "build", "dist", "tests", "*.egg-info", "__pycache__"
        )
        source = shutil.copytree(ROOT, Path(scratch) / "source", ignore=ignored)
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder)]
        subprocess.run([*command, str(source)], check=True)


def write_bill(path: Path) -> None:
    """A CycloneDX bill of materials of everything that the project needs to run."""
    pinned = "".join(f"{name}=={version}\n" for name, version in sorted(needed().items()))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(pinned)
        file.flush()
        command = ["cyclonedx_py", "requirements", "--pyproject", str(ROOT / "pyproject.toml")]
        arguments = ["--output-reproducible", "--output-file", str(path), file.name]
        subprocess.run([sys.executable, "-W", "ignore", "-m", *command, *arguments], check=True)


def needed() -> dict[str, str]:
    """Name and installed version of each package that the project needs, directly or not."""
    found: dict[str, str] = {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    more = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    waiting = [Requirement(line) for line in [*project["dependencies"], *more]]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if name in found:
            continue
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"release: {name} is not installed here") from None
        found[name] = installed.version
        waiting += [Requirement(line) for line in installed.requires or ()]
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: release.py FOLDER")
    sys.exit(main(Path(sys.argv[1])))
