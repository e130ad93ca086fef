"""The program that reads grammars and matches texts with them, apart from the process that asks.

Messages are those of `lm/sandbox.py`. The first request has `path`, a model whose vocabulary is
used, and `seconds` of computing that each request may take. Any other has a grammar (`gbnf`, or a
JSON `schema`), the `number` of a text, and its `tokens`; the answer is a bit for each id, as
`numpy.packbits` has them: may it come next? Of the numbered texts the newest is kept, so that only
what is new of it is matched; number 0 is none.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as ll
from llama_cpp.llama_grammar import json_schema_to_gbnf

from ..sandbox import PER_BYTE, Memory, Refused, limit_time, read_message, write_message
from .llama_model import LlamaModel
from .options import EngineOptions


class Reader:
    """Reads grammars for one vocabulary, and matches one text at a time."""

    def __init__(self, path: Path) -> None:
        self._model = LlamaModel(path, EngineOptions(), vocabulary_only=True)
        self._handle = ll.llama_model_get_vocab(self._model.handle)
        vocab = self._model.vocab
        # A control token adds nothing to the text, whatever its name would match.
        self._usable = np.array(
            [i for i in range(len(vocab)) if vocab.text_bytes(i) or i in vocab.end_ids], np.int32
        )
        kind = [("id", np.int32), ("logit", np.float32), ("p", np.float32)]
        self._candidates = np.zeros(len(self._usable), dtype=kind)
        self._number = 0
        self._sampler: Any = None
        self._tokens: list[int] = []

    def mask(self, request: Mapping[str, Any]) -> bytes:
        """Bits of the ids that may come next.

        Raises:
            Refused: the grammar is none, or no id may.
        """
        tokens: Sequence[int] = request.get("tokens", ())
        known = self._tokens
        if request["number"] != self._number or list(tokens[: len(known)]) != known or not known:
            self._begin(request)
        for token in tokens[len(self._tokens) :]:
            if not self._allowed[token]:  # llama.cpp would end the process
                raise Refused("does not match the text so far")
            ll.llama_sampler_accept(self._sampler, token)
            self._tokens.append(token)
            self._look()
        if not self._allowed.any():
            raise Refused("matches nothing, or leaves no token here")
        return np.packbits(self._allowed).tobytes()

    def _begin(self, request: Mapping[str, Any]) -> None:
        gbnf = request["gbnf"] if "gbnf" in request else _gbnf(request["schema"])
        if "\0" in gbnf:
            raise Refused("is not GBNF: it has a character of code 0")
        if self._sampler is not None:
            ll.llama_sampler_free(self._sampler)
        self._sampler, self._tokens, self._number = None, [], request["number"]
        with _said() as lines:
            raw = gbnf.encode("utf-8", "replace")
            self._sampler = ll.llama_sampler_init_grammar(self._handle, raw, b"root") or None
        if self._sampler is None:
            told = [line.partition("parsing grammar: ")[2] for line in lines]
            why = next(filter(None, told), "no rule is `root`, or one begins with itself").strip()
            raise Refused(f"cannot be read: {why}{' its end' * why.endswith(' at')}")
        self._look()

    def _look(self) -> None:
        """Ask which ids may come next."""
        self._candidates["id"], self._candidates["logit"] = self._usable, 0.0
        data = ctypes.cast(self._candidates.ctypes.data, ll.llama_token_data_p)
        array = ll.llama_token_data_array(data, len(self._usable), -1, False)
        ll.llama_sampler_apply(self._sampler, ctypes.byref(array))
        self._allowed = np.zeros(len(self._model.vocab), dtype=bool)
        self._allowed[self._usable] = self._candidates["logit"] == 0.0


def _gbnf(schema: str) -> str:
    """The grammar of a JSON schema, by llama.cpp's own conversion. It fetches nothing."""
    try:
        return str(json_schema_to_gbnf(schema))
    except RecursionError:
        raise Refused("is too deep, or contains itself") from None
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        why = str(error).partition(" (")[0]
        raise Refused(f"is no JSON schema that can be bound to: {why}") from None


@contextmanager
def _said() -> Iterator[list[str]]:
    """The lines that C code writes to stderr meanwhile; what a pipe does not hold is left out."""
    lines: list[str] = []
    out, end = os.pipe()
    os.set_blocking(out, False)
    os.set_blocking(end, False)
    kept = os.dup(2)
    os.dup2(end, 2)
    try:
        yield lines
    finally:
        os.dup2(kept, 2)
        with suppress(BlockingIOError):
            lines += os.read(out, 1 << 16).decode("utf-8", "replace").splitlines()
        for handle in (kept, out, end):
            os.close(handle)


def main() -> None:
    """Answer requests until stdin ends."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever is printed is no answer
    first = json.loads(read_message(requests) or b"null")
    reader, seconds = Reader(Path(first["path"])), first["seconds"]
    memory, answer = Memory(), b"+"  # bounds count from llama.cpp and a vocabulary on
    while True:
        write_message(answers, answer)
        memory.limit()
        if (request := read_message(requests)) is None:
            return
        memory.limit(PER_BYTE * len(request))
        limit_time(seconds)
        try:
            answer = b"+" + reader.mask(json.loads(request))
        except Refused as error:
            answer = f"-{error}".encode("utf-8", "replace")
        limit_time(0)
