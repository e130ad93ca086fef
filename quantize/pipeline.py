"""From a model folder to quantised files that are ready to run: the one command.

Order: refuse what can be refused, predict every size, ask the disk, and only then begin.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..common.errors import ModelError, UsageError
from ..common.files import atomic_output, free_bytes, remove_stale, require_space, scratch_file
from ..lm.engines.llama import LlamaEngine
from ..lm.engines.options import EngineOptions
from ..lm.gguf.check import check
from .convert.folder import Conversion, plan_conversion
from .convert.writer import DTYPES, Progress
from .imatrix.collect import CHUNK, collect_imatrix
from .imatrix.file import load_imatrix, save_imatrix
from .llama_quantize import predict, quantize
from .quality.report import Report, measure_quality
from .quality.samples import Sample, complete, encode
from .quant_types import require_types

_HEADER_ROOM = 64 << 20


@dataclass(frozen=True)
class ReportRequest:
    """Measure the files on these samples, with this cloud model for the pair."""

    samples: Sequence[Sample]
    texts: str
    cloud: Path | None = None


@dataclass(frozen=True)
class QuantizeRequest:
    """What to prepare.

    Args:
        src: a Hugging Face folder, or a GGUF of F32, F16 or BF16.
        types: names such as Q4_K_M.
        out: the folder for the files; None for the current one.
        dtype: what quantisation starts from.
        imatrix: an importance matrix made before.
        prompts: texts to make one from.
        prompts_name: what they are, kept in the matrix's file.
        threads: 0 for one per core.
    """

    src: Path
    types: Sequence[str]
    out: Path | None = None
    dtype: str = "F16"
    imatrix: Path | None = None
    prompts: Sequence[Sample] = ()
    prompts_name: str = ""
    threads: int = 0
    report: ReportRequest | None = None


@dataclass(frozen=True)
class PlannedFile:
    """A file to be written, its exact size, and tensors whose rows do not fit its type."""

    path: Path
    type: str
    nbytes: int
    fallbacks: int = 0


@dataclass(frozen=True)
class Prepared:
    """What came out."""

    files: tuple[Path, ...]
    imatrix: Path | None = None
    report: Report | None = None


@dataclass
class Listener:
    """Told what will be written, then what is at work. `stage` returns where to report it."""

    planned: Callable[[Sequence[PlannedFile]], None] = field(default=lambda files: None)
    stage: Callable[[str], Progress] = field(default=lambda title: lambda done, total, what: None)


def prepare(
    request: QuantizeRequest,
    listener: Listener | None = None,
    free: Callable[[Path], int] = free_bytes,
) -> Prepared:
    """Convert, make an importance matrix, quantise, try each file, measure: what is asked for.

    Raises:
        UsageError: an unknown type, or one that needs an importance matrix.
        ModelError: the model is refused.
        ResourceError: no room on the disk.
    """
    listener = listener or Listener()
    has_imatrix = bool(request.imatrix or request.prompts)
    types = require_types(request.types, has_imatrix)
    if request.dtype not in DTYPES:
        raise UsageError(f"{request.dtype} is no type to start from; {', '.join(DTYPES)} are")
    if request.imatrix is not None:
        load_imatrix(request.imatrix)
    source = _Source.open(request)
    with source.outline() as outline:
        predictions = predict(outline, types, has_imatrix)
    planned = [
        PlannedFile(source.file(name), name, guess.nbytes, guess.fallbacks)
        for name, guess in zip(types, predictions, strict=True)
    ]
    listener.planned(planned)
    need = sum(file.nbytes for file in planned) + source.nbytes + _HEADER_ROOM
    source.folder.mkdir(parents=True, exist_ok=True)
    remove_stale(source.folder, source.name)
    require_space(source.folder, need, free)
    with source.original(listener) as original:
        matrix = request.imatrix
        if request.prompts:
            matrix = source.folder / f"{source.name}.imatrix.gguf"
            _make_imatrix(original, matrix, request, listener.stage("importance matrix"))
        for file in planned:
            _make(source, original, file, matrix, request.threads, listener)
            _try_model(file.path)
        report = None
        if request.report is not None:
            report = measure_quality(
                original,
                [file.path for file in planned],
                request.report.samples,
                request.report.texts,
                request.report.cloud,
                threads=request.threads,
                progress=listener.stage("quality"),
                name=f"{source.name}.{source.dtype}.gguf",
            )
    return Prepared(
        tuple(file.path for file in planned), matrix if request.prompts else None, report
    )


@dataclass(frozen=True)
class _Source:
    """Where weights come from: a folder to convert, or a GGUF as it is."""

    path: Path
    name: str
    folder: Path
    dtype: str
    conversion: Conversion | None = None

    @classmethod
    def open(cls, request: QuantizeRequest) -> _Source:
        src = request.src
        folder = request.out or Path()
        if src.is_dir():
            conversion = plan_conversion(src, request.dtype)
            return cls(src, src.resolve().name, folder, request.dtype, conversion)
        header = check(src)
        dtype = header.file_type or "unknown type"
        if any(tensor.type not in DTYPES for tensor in header.tensors):
            raise ModelError(f"{src}: is quantised already ({dtype}); use F16, BF16 or F32")
        return cls(src, src.name.removesuffix(".gguf").removesuffix(f".{dtype}"), folder, dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the file that conversion needs for a while."""
        return self.conversion.nbytes if self.conversion else 0

    def file(self, type_name: str) -> Path:
        path = self.folder / f"{self.name}.{type_name}.gguf"
        if path.resolve() == self.path.resolve():
            raise UsageError(f"{path}: is the source itself; choose another type or --out")
        return path

    @contextmanager
    def outline(self) -> Iterator[Path]:
        """A file with the keys and shapes of the model, enough to predict sizes."""
        if self.conversion is None:
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="uhlm-") as scratch:
            path = Path(scratch) / "outline.gguf"
            self.conversion.write_outline(path)
            yield path

    @contextmanager
    def original(self, listener: Listener) -> Iterator[Path]:
        """The unquantised model, for as long as the block lasts."""
        if self.conversion is None:
            yield self.path
            return
        place = self.folder / f"{self.name}.{self.dtype}.original.gguf"
        with scratch_file(place) as path:
            self.conversion.write(path, listener.stage(f"{self.name} -> {self.dtype}"))
            yield path


def _make(
    source: _Source,
    original: Path,
    file: PlannedFile,
    matrix: Path | None,
    threads: int,
    listener: Listener,
) -> None:
    """One file: unquantised types straight from the folder, since F16 may have lost digits."""
    progress = listener.stage(file.path.name)
    if source.conversion is not None and file.type == source.dtype:
        with atomic_output(file.path) as part:
            try:
                os.link(original, part)
            except OSError:  # a file system without links
                shutil.copyfile(original, part)
    elif source.conversion is not None and file.type in DTYPES:
        plan_conversion(source.path, file.type).write(file.path, progress)
    else:
        quantize(original, file.path, file.type, matrix, threads, progress)


def _make_imatrix(original: Path, path: Path, request: QuantizeRequest, progress: Progress) -> None:
    """Run the prompts, with replies that the model writes where they have none."""
    options = EngineOptions(n_ctx=CHUNK, n_threads=request.threads, n_threads_batch=request.threads)
    with closing(LlamaEngine(original, options)) as engine:
        random = np.random.default_rng(0)
        bos = engine.model.header.metadata.get("tokenizer.ggml.add_bos_token") is True
        passages = encode(request.prompts, engine.vocab, bos)
        texts = [complete(passage, engine, random).ids for passage in passages]
    matrix, chunks = collect_imatrix(original, texts, progress, request.threads)
    save_imatrix(matrix, path, [request.prompts_name or "prompts"], chunks, CHUNK)


def _try_model(path: Path) -> None:
    """Load a finished file and run one pass."""
    options = EngineOptions(n_ctx=64, n_threads=1, n_threads_batch=1)
    with closing(LlamaEngine(path, options)) as engine:
        ids = engine.vocab.tokenize("Hello 1")[:32] or [0]
        finite = bool(np.isfinite(engine.eval(ids)).all())
    if not finite:
        path.unlink()
        raise ModelError(f"{path}: its logits are not numbers; the type does not suit this model")
