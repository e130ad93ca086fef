"""Pack what a board needs into one archive: `python tools/arm64/bundle.py TARGET LLAMA FOLDER`.

The archive holds the project's wheel, LLAMA (the wheel that build_wheel.py made for TARGET), every
dependency as an aarch64 wheel, their checksums and `install.sh`. It is for the Python version that
runs this script: pip reads the conditions of dependencies with its own.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

# What Raspberry Pi OS and JetPack can load, the newest first: their glibc is 2.36 and 2.35.
PLATFORMS = [*(f"manylinux_2_{minor}_aarch64" for minor in range(35, 16, -1)), "linux_aarch64"]
# The kernel's names of what a target's processor must have; install.sh looks for them.
FEATURES = {"pi4": "crc32", "pi5": "asimddp fphp", "generic": ""}


def bundle(target: str, llama: Path, folder: Path) -> Path:
    """Return the archive for `target`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        wheels = base / "wheels"
        wheels.mkdir()
        shutil.copy(llama, wheels)
        # From a copy: a build leaves a folder behind that would count as part of the project.
        ignored = shutil.ignore_patterns(
            ".*", "build", "dist", "tests", "*.egg-info", "__pycache__"
        )
        source = shutil.copytree(ROOT, base / "source", ignore=ignored)
        pip("wheel", "--no-deps", "--wheel-dir", scratch, str(source))
        own = next(base.glob("uhlm_edge-*.whl"))
        platforms = [f"--platform={platform}" for platform in PLATFORMS]
        pip(
            *("download", "--only-binary", ":all:", "--dest", str(wheels)),
            *("--find-links", str(wheels), "--implementation", "cp", "--python-version", VERSION),
            *platforms,
            f"uhlm-edge[cloud,serve] @ {own.as_uri()}",
        )
        if not list(wheels.glob(own.name)):
            shutil.copy(own, wheels)
        name = f"{own.name.split('-py')[0].replace('_', '-')}-{target}-py{VERSION}"
        return pack(name, target, wheels, folder)


def pack(name: str, target: str, wheels: Path, folder: Path) -> Path:
    """Write wheels, checksums and the installer as `name`.tar, the same bytes each time."""
    place = wheels.parent / name
    place.mkdir()
    wheels.rename(place / "wheels")
    shutil.copy(ROOT / "tools" / "arm64" / "install.sh", place)
    (place / "made-for").write_text(
        f"target={target}\nmachine=aarch64\nversion={VERSION}\nfeatures='{FEATURES[target]}'\n",
        encoding="utf-8",
    )
    files = sorted(f for f in place.rglob("*") if f.is_file())
    sums = [f"{digest(file)}  {file.relative_to(place)}\n" for file in files]
    (place / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    archive = folder / f"{name}.tar"  # wheels are compressed already
    with tarfile.open(archive, "w") as tar:
        for file in sorted([*files, place / "SHA256SUMS"]):
            tar.add(file, f"{name}/{file.relative_to(place)}", filter=anonymous)
    return archive


def anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the owner and the time of the machine that packs."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def digest(file: Path) -> str:
    """Its SHA-256 in hex."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def pip(*arguments: str) -> None:
    """Run pip of this interpreter; its output is shown only if it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bundle: pip {arguments[0]} failed:\n{done.stderr}")


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in FEATURES:
        sys.exit(f"usage: bundle.py {{{','.join(FEATURES)}}} LLAMA FOLDER")
    print(bundle(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]).resolve()))
