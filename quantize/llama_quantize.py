"""llama.cpp's quantiser, in a process of its own.

In a process of its own because it runs for minutes inside one C call: there it can be stopped with
Ctrl-C, and where llama.cpp ends the process on an odd shape, this one goes on and says so. The
child writes llama.cpp's log to its output, which is where the progress comes from.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import ModelError, ResourceError
from ..common.files import atomic_output
from ..lm.gguf.check import check
from ..lm.gguf.types import TENSOR_TYPES
from . import llama_child
from .convert.writer import Progress
from .llama_child import NEXT, RESULT
from .quant_types import QUANT_TYPES

_LINE = re.compile(r"\[\s*(\d+)/\s*(\d+)\]\s+(\S+)\s+-.*?type =\s*(\S+?),(?:.*\((\w+)\))?")
_ALIGNMENT = 32


@dataclass(frozen=True)
class Prediction:
    """What a quantisation would give: bytes of the file, and tensors that need another type.

    `fallbacks` counts tensors whose rows are not a multiple of the type's block.
    """

    nbytes: int
    fallbacks: int


def predict(src: Path, type_names: Sequence[str], imatrix: bool = False) -> list[Prediction]:
    """The sizes of `src` quantised to each type, from llama.cpp's dry run. No weight is read.

    `imatrix` says whether an importance matrix will be used: llama.cpp then mixes types otherwise.

    Raises:
        ModelError: llama.cpp refuses the file or a type.
    """
    header = check(src)
    bytes_of = {kind.name.upper(): kind for kind in TENSOR_TYPES.values()}
    start = min((tensor.offset for tensor in header.tensors), default=header.file_size)
    found: list[Prediction] = []
    types: dict[str, str] = {}
    fallbacks = 0
    with closing(
        _run(src, Path(os.devnull), type_names, "any" if imatrix else "", 1, True)
    ) as lines:
        for line in lines:
            fallbacks += "falling back to" in line
            if match := _LINE.search(line):
                types[match[3]] = (match[5] or match[4]).upper()
            if line.startswith(NEXT):
                total = start
                for tensor in header.tensors:
                    kind = bytes_of[types[tensor.name]]
                    size = tensor.n_elements // kind.block * kind.n_bytes
                    total += -(-size // _ALIGNMENT) * _ALIGNMENT
                found.append(Prediction(total, fallbacks))
                types, fallbacks = {}, 0
    return found


def quantize(
    src: Path,
    out: Path,
    type_name: str,
    imatrix: Path | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> None:
    """Write `src` quantised to `type_name` to `out`, whole or not at all.

    Args:
        src: a GGUF of F32, F16 or BF16 weights.
        imatrix: an importance matrix, see `imatrix_file`.
        threads: 0 for one per core.
        progress: told the number of the tensor at work, of how many, and its name.

    Raises:
        ModelError: llama.cpp refuses; the message says why.
        ResourceError: the disk is full, or a file may not become so large.
    """
    check(src)
    with atomic_output(out) as part:
        with closing(_run(src, part, [type_name], str(imatrix or ""), threads)) as lines:
            for line in lines:
                if progress is not None and (found := _LINE.search(line)):
                    progress(int(found[1]), int(found[2]), found[3])
        check(part)


def _run(
    src: Path, out: Path, types: Sequence[str], imatrix: str, threads: int, dry: bool = False
) -> Generator[str, None, None]:
    """Run the child and yield its lines as they come."""
    numbers = ",".join(str(QUANT_TYPES[name]) for name in types)
    command = [sys.executable, "-m", llama_child.__name__, str(src), str(out), numbers]
    command += [str(threads or os.cpu_count() or 1), "dry" if dry else "write", imatrix]
    lines: list[str] = []
    child = subprocess.Popen(  # noqa: S603 -- this interpreter and our own module
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # the modules that this process found, and none that lie in the current folder
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path),
            "PYTHONSAFEPATH": "1",
        },
        start_new_session=True,  # Ctrl-C comes here first, and from here to the child
    )
    result = ""
    try:
        for line in child.stdout or ():
            if line.startswith(RESULT):
                result = line.removeprefix(RESULT).strip()
            else:
                lines = [*lines[-200:], line.rstrip()]
                yield line
        child.wait()
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
    if result != "0":
        _explain(src, ", ".join(types), lines)


def _explain(src: Path, type_name: str, lines: list[str]) -> None:
    """Turn what llama.cpp said into one line."""
    said = [line for line in lines if re.search(r"error|failed|missing|disabled", line, re.I)]
    text = " ".join(said).lower()
    if "no space" in text or "iostream error" in text or "basic_ios" in text:
        raise ResourceError(
            f"{type_name}: cannot be written: the disk is full, or files may not become so large"
            " (see `ulimit -f`); nothing was written"
        )
    if "requantizing" in text:
        raise ModelError(f"{src}: is quantised already; quantise from F16, BF16 or F32")
    if "importance matrix" in text or "imatrix" in text:
        raise ModelError(f"{src}: {type_name} needs an importance matrix for these tensors")
    why = re.sub(r"^\S+: ", "", said[-1]) if said else (lines or ["it gives no reason"])[-1]
    raise ModelError(f"{src}: llama.cpp cannot make {type_name} of it: {why}")
