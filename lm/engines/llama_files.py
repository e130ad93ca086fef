"""The compiled llama.cpp as files, looked at without loading it."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

_SPINS = "1000"  # of GNU OpenMP, tens of microseconds
_SHARED_RUNTIMES = (b"libstdc++.so", b"libc++.so", b"libc++.1.dylib")


def library_folder() -> Path | None:
    """Where the shared libraries of llama-cpp-python lie; None if it is not installed."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    return folder if folder.is_dir() else None


def installed_version() -> str | None:
    """Of llama-cpp-python; None if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # 35 ms

    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return None


def has_own_cpp_runtime(folder: Path) -> bool | None:
    """Is a C++ runtime linked into llama.cpp statically? None if its libraries are not there.

    A library that uses the system's names it. If it names none, the process gets a second runtime
    as soon as numpy loads the system's, and loading a model ends in a segmentation fault when numpy
    was first.
    """
    libraries = [f for f in folder.glob("libggml-base.*") if f.suffix in (".so", ".dylib")]
    if not libraries:
        return None
    content = libraries[0].read_bytes()
    return not any(name in content for name in _SHARED_RUNTIMES)


def prepare_process() -> None:
    """Before numpy and llama_cpp are loaded: what cannot be put right afterwards.

    A build whose C++ runtime is its own is loaded now, ahead of numpy. And the threads of a pass
    wait for each other by spinning: while another process needs a core, they spin through the time
    of the one they wait for, and a token takes 13 times as long (two threads on two busy cores).
    So they give up soon, unless the environment says otherwise.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPINS
    if "numpy" in sys.modules or "llama_cpp" in sys.modules:
        return
    folder = library_folder()
    if folder is not None and has_own_cpp_runtime(folder):
        import llama_cpp  # noqa: F401 - loading it is all that is wanted
