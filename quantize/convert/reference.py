"""The `tokenizers` library's reading of a folder: what a converted vocabulary is held to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...common.errors import ModelError
from ...lm.vocabulary import Kind
from .checkpoint import Checkpoint
from .sentencepiece import SPACE, SentencePieceModel, read_sentencepiece

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def reference_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The `tokenizers` library's own reading of the folder.

    Without a tokenizer.json it is built from the pieces of tokenizer.model.

    Raises:
        ModelError: the library refuses the file.
    """
    from tokenizers import Tokenizer

    path = checkpoint.folder / "tokenizer.json"
    if not path.exists():
        return _from_pieces(read_sentencepiece(checkpoint.folder / "tokenizer.model"))
    try:
        found: Tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more special
        raise ModelError(f"{path}: is refused by tokenizers: {error}") from error
    found.no_truncation()
    found.no_padding()
    return found


def _from_pieces(model: SentencePieceModel) -> Tokenizer:
    """A `tokenizers` BPE of the same pieces: a merge for each pair that makes one, best first."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers

    ids = {piece.text: i for i, piece in enumerate(model.pieces)}
    merges: list[tuple[float, str, str]] = []
    for piece in model.pieces:
        if piece.kind == Kind.NORMAL:
            cuts = ((piece.text[:n], piece.text[n:]) for n in range(1, len(piece.text)))
            merges += [(-piece.score, a, b) for a, b in cuts if a in ids and b in ids]
    merges.sort(key=lambda merge: (merge[0], ids[merge[1]], ids[merge[2]]))
    unknown = next((p.text for p in model.pieces if p.kind == Kind.UNKNOWN), None)
    found: Tokenizer = Tokenizer(
        models.BPE(
            vocab=ids,
            merges=[(a, b) for _, a, b in merges],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=any(p.kind == Kind.BYTE for p in model.pieces),
        )
    )
    steps = [normalizers.Prepend(SPACE)] if model.add_dummy_prefix else []
    found.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    found.add_special_tokens([p.text for p in model.pieces if p.kind == Kind.CONTROL])
    found.add_tokens(
        [
            AddedToken(p.text.replace(SPACE, " "), normalized=False)
            for p in model.pieces
            if p.kind == Kind.USER_DEFINED
        ]
    )
    return found
