"""Hugging Face folder -> GGUF, a block of rows at a time.

The order of work: everything that can be refused is refused before a tensor is written. The header
is made, the vocabulary is tried in llama.cpp against `tokenizers`, the disk is asked for its room,
and only then the tensors are streamed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...common.errors import ModelError, UsageError
from ...common.files import atomic_output, explained, free_bytes, require_space
from .checkpoint import Checkpoint
from .families import Layout, read_layout
from .reference import reference_tokenizer
from .tokenizer import TokenizerData, read_tokenizer
from .writer import DTYPES, PlannedTensor, Progress, write_gguf

_HEADER_ROOM = 64 << 20
_IGNORED = ("rotary_emb.inv_freq", "vision_tower.", "multi_modal_projector.")


@dataclass(frozen=True)
class Conversion:
    """A folder that can be converted: everything is checked but the weights themselves.

    `ids_compared` is how many ids of the sample text came out the same.
    """

    checkpoint: Checkpoint
    layout: Layout
    tokenizer: TokenizerData
    tensors: tuple[PlannedTensor, ...]
    dtype: str
    ids_compared: int

    @property
    def nbytes(self) -> int:
        """Bytes of the weights in the file to be written."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def write_outline(self, path: Path) -> None:
        """A file with every key and no weights, full-sized but sparse."""
        with explained(path):
            self._write(path, outline=True)

    def write(
        self, out: Path, progress: Progress | None = None, free: Callable[[Path], int] = free_bytes
    ) -> None:
        """Write the GGUF `out`; what was there is replaced at the end, or stays.

        Raises:
            ModelError: NaN, infinite or too large weights.
            ResourceError: the disk has no room.
        """
        out.parent.mkdir(parents=True, exist_ok=True)
        require_space(out.parent, self.nbytes + _HEADER_ROOM, free)
        with atomic_output(out) as part:
            self._write(part, progress)

    def _write(self, path: Path, progress: Progress | None = None, outline: bool = False) -> None:
        parts = (self.checkpoint, self.layout, self.tokenizer, self.tensors, self.dtype)
        write_gguf(path, *parts, progress, outline)


def plan_conversion(src: Path, dtype: str = "F16") -> Conversion:
    """Read and check a Hugging Face folder, and try its vocabulary in llama.cpp.

    Args:
        src: a folder with config.json, safetensors and a tokenizer.
        dtype: of the matrices: F16, BF16 or F32. Vectors are F32 always.

    Raises:
        UsageError: an unknown dtype.
        ModelError: the folder cannot be converted, or its ids come out different.
    """
    if dtype not in DTYPES:
        raise UsageError(f"{dtype} is no type to convert to; {', '.join(DTYPES)} are")
    checkpoint = Checkpoint(src)
    layout = read_layout(checkpoint.config)
    tensors = tuple(_plan(checkpoint, layout, dtype))
    tokenizer = read_tokenizer(checkpoint).padded(tensors[0].shape[0])
    compared, tokenizer = _try_vocabulary(checkpoint, layout, tokenizer)
    return Conversion(checkpoint, layout, tokenizer, tensors, dtype, compared)


def convert(
    src: Path,
    out: Path,
    dtype: str = "F16",
    progress: Progress | None = None,
    free: Callable[[Path], int] = free_bytes,
) -> Conversion:
    """Write the model in folder `src` to the GGUF `out`: `plan_conversion`, then `write`."""
    conversion = plan_conversion(src, dtype)
    conversion.write(out, progress, free)
    return conversion


def _plan(checkpoint: Checkpoint, layout: Layout, dtype: str) -> list[PlannedTensor]:
    """The tensors to write, the embedding first."""
    names = _gguf_names(checkpoint, layout)
    embedding = names.get("token_embd.weight")
    if embedding is None:
        raise ModelError(f"{checkpoint.folder}: the tensor model.embed_tokens.weight is missing")
    rows = checkpoint.tensors[embedding].shape[0]
    wanted: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (rows, layout.width),
        "output_norm.weight": (layout.width,),
    }
    if not layout.tied:
        wanted["output.weight"] = (rows, layout.width)
    optional: dict[str, tuple[int, ...]] = {}
    for layer in range(layout.layers):
        wanted |= layout.layer_shapes(layer)
        optional |= layout.layer_shapes(layer, optional=True)
    plans: list[PlannedTensor] = []
    for name, shape in (wanted | optional).items():
        source = names.pop(name, None)
        if source is None:
            if name in wanted:
                raise ModelError(f"{checkpoint.folder}: the tensor for {name} is missing")
            continue
        found = checkpoint.tensors[source].shape
        if found != shape:
            raise ModelError(
                f"{checkpoint.folder}: tensor {source} has shape {found}, config.json says {shape}"
            )
        plans.append(PlannedTensor(name, dtype if len(shape) > 1 else "F32", shape, source))
    names.pop("output.weight", None)  # a copy of the embedding, where the config says tied
    if names:
        raise ModelError(
            f"{checkpoint.folder}: tensor {next(iter(names.values()))} has no place in"
            f" {layout.family.arch}"
        )
    factors = layout.rope.frequency_factors(layout.head_dim)
    if factors is not None:
        plans.append(PlannedTensor("rope_freqs.weight", "F32", factors.shape, factors))
    return plans


def _gguf_names(checkpoint: Checkpoint, layout: Layout) -> dict[str, str]:
    """GGUF name -> name in the folder."""
    import gguf

    arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == layout.family.arch)
    known = gguf.get_tensor_name_map(arch, layout.layers)
    names: dict[str, str] = {}
    for source in checkpoint.tensors:
        if any(part in source for part in _IGNORED):
            continue
        plain = source.replace("language_model.", "", 1)
        plain = plain if plain.startswith(("model.", "lm_head.")) else f"model.{plain}"
        name = known.get_name(plain, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(
                f"{checkpoint.folder}: tensor {source} has no place in {layout.family.arch}"
            )
        names[name] = source
    return names


def _try_vocabulary(
    checkpoint: Checkpoint, layout: Layout, tokenizer: TokenizerData
) -> tuple[int, TokenizerData]:
    """Have llama.cpp read the vocabulary and compare its ids with the model's own tokenizer.

    Ids that must end a text and that llama.cpp does not know by their name are put into its keys
    for further end ids.
    """
    from .llama_tokens import compare_ids, missing_ends, open_vocabulary

    reference = reference_tokenizer(checkpoint)
    with tempfile.TemporaryDirectory(prefix="uhlm-") as scratch, explained(Path(scratch)):
        path = Path(scratch) / "vocabulary.gguf"
        write_gguf(path, checkpoint, layout, tokenizer, (), "F32")
        with open_vocabulary(path) as vocab:
            missing = missing_ends(vocab, tokenizer.end_ids)
            compared = compare_ids(vocab, reference)
        if missing:
            tokenizer = tokenizer.with_ends(missing)
            write_gguf(path, checkpoint, layout, tokenizer, (), "F32")
            with open_vocabulary(path) as vocab:
                missing = missing_ends(vocab, tokenizer.end_ids)
    if missing:
        raise ModelError(f"{checkpoint.folder}: id {missing[0]} would not end a text in llama.cpp")
    return compared, tokenizer
