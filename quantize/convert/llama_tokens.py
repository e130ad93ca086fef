"""Does llama.cpp split text as the model's own tokenizer does? Tried, on a text of many kinds.

A wrong name of the pre-tokenizer gives wrong ids and no error: the model merely becomes worse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...common.errors import ModelError
from ...lm.engines.llama_model import LlamaModel, LlamaVocabulary
from ...lm.engines.options import EngineOptions
from .sample_text import SAMPLE_LINES, SAMPLE_TEXT

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@contextmanager
def open_vocabulary(path: Path) -> Iterator[LlamaVocabulary]:
    """The vocabulary of a GGUF, loaded by llama.cpp without its tensors.

    Raises:
        ModelError: llama.cpp refuses it.
    """
    with closing(LlamaModel(path, EngineOptions(), vocabulary_only=True)) as model:
        yield model.vocab


def compare_ids(vocab: LlamaVocabulary, reference: Tokenizer) -> int:
    """Compare the ids of the sample text; returns how many ids it has.

    Raises:
        ModelError: they differ; the message shows the first difference.
    """
    for text in (*SAMPLE_LINES, SAMPLE_TEXT):
        ours = vocab.tokenize(text, special=True)
        theirs = list(reference.encode(text, add_special_tokens=False).ids)
        if ours != theirs:
            raise ModelError(_first_difference(text, ours, theirs, vocab))
    return len(ours)


def _first_difference(text: str, ours: list[int], theirs: list[int], vocab: LlamaVocabulary) -> str:
    pairs = zip(ours, theirs, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
    before = b"".join(vocab.pieces[i] for i in ours[max(0, at - 4) : at]).decode("utf-8", "replace")
    what = " and ".join(
        f"{name} gives {_named(ids[at : at + 3], vocab)}"
        for name, ids in (("tokenizers", theirs), ("llama.cpp", ours))
    )
    return (
        f"the converted vocabulary splits text differently: in {text[:40]!r} after {before!r}"
        f" (id number {at}) {what}"
    )


def _named(ids: list[int], vocab: LlamaVocabulary) -> str:
    """Ids with their text, for a person."""
    if not ids:
        return "nothing"
    return " ".join(
        f"{i}={vocab.pieces[i].decode('utf-8', 'replace')!r}" if i < len(vocab.pieces) else str(i)
        for i in ids
    )


def missing_ends(vocab: LlamaVocabulary, end_ids: Iterable[int]) -> list[int]:
    """Which of the ids that must end a text llama.cpp does not take for one."""
    return [i for i in end_ids if i not in vocab.end_ids]
