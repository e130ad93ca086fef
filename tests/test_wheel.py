"""The wheel: built from a clone with a hyphen in its name, it brings `uhlm_edge` and no more."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import uhlm_edge

ROOT = Path(uhlm_edge.__file__).parent
ABROAD = (
    "tests",
    "tools",
    "docs",
    ".*",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
    "experiments",
    "examples",
    "deploy",
)

LITTER = shutil.ignore_patterns(".*", "build", "__pycache__", "*.egg-info")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files in a folder whose name is no identifier."""
    target = tmp_path_factory.mktemp("some where") / "uhlm-edge-clone"
    return Path(shutil.copytree(ROOT, target, ignore=LITTER))


@pytest.fixture(scope="module")
def wheel(clone: Path) -> Path:
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", clone / "dist", clone)
    (built,) = (clone / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site-packages of an empty environment with the wheel; the dependencies are borrowed."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, symlinks=True)
    pip("--python", home, "install", "--no-deps", wheel)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return site


def pip(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


def run(site: Path, *arguments: str) -> str:
    """Run the environment's Python outside the clone; return what it prints."""
    home = site.parents[2]
    return subprocess.check_output([str(home / "bin" / "python"), *arguments], cwd=home, text=True)


def test_the_wheel_holds_the_packages_and_their_data(wheel: Path, clone: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {file for file in clone.rglob("*") if file.is_file()}
    wanted -= {file for pattern in ABROAD for file in clone.glob(f"{pattern}/**/*")}
    wanted = {file for file in wanted if file.parent != clone or file.suffix in (".py", ".typed")}
    assert held == {f"uhlm_edge/{file.relative_to(clone).as_posix()}" for file in wanted}


def test_the_licence_comes_with_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


def test_nothing_else_lands_in_site_packages(site: Path) -> None:
    names = {entry.name for entry in site.iterdir() if entry.name != "borrowed.pth"}
    version = uhlm_edge.__version__
    assert names == {"uhlm_edge", f"uhlm_edge-{version}.dist-info"}


def test_the_installed_package_finds_its_models(site: Path) -> None:
    code = (
        "import uhlm_edge, uhlm_edge.models.shipped as m\n"
        "print(uhlm_edge.__file__)\n"
        "for name in m.SHIPPED: m.verify(m.path_of(name))\n"
    )
    assert run(site, "-I", "-c", code).strip() == str(site / "uhlm_edge" / "__init__.py")


def test_every_installed_module_imports(site: Path) -> None:
    code = (
        "import importlib, pathlib, sys\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "for file in (root / 'uhlm_edge').rglob('*.py'):\n"
        "    name = '.'.join(file.relative_to(root).with_suffix('').parts)\n"
        "    try:\n"
        "        importlib.import_module(name.removesuffix('.__init__'))\n"
        "    except ModuleNotFoundError as error:\n"
        "        if error.name.split('.')[0] != 'ray': raise\n"  # an extra that tests do without
    )
    run(site, "-I", "-c", code, str(site))
