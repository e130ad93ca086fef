"""A model file loaded by llama.cpp, and its vocabulary."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as ll

from ...common.errors import ModelError
from ...common.machine import read_machine
from ..gguf.check import check
from ..vocabulary import Kind, Vocabulary
from .fit import fit
from .llama_build import model_params, supports_gpu
from .options import EngineOptions

_log = logging.getLogger("uhlm_edge.llama")
_log.addHandler(logging.NullHandler())  # silent unless somebody listens
_LEVELS = {2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
_KINDS = {
    ll.LLAMA_TOKEN_ATTR_UNKNOWN: Kind.UNKNOWN,
    ll.LLAMA_TOKEN_ATTR_UNUSED: Kind.UNUSED,
    ll.LLAMA_TOKEN_ATTR_NORMAL: Kind.NORMAL,
    ll.LLAMA_TOKEN_ATTR_CONTROL: Kind.CONTROL,
    ll.LLAMA_TOKEN_ATTR_USER_DEFINED: Kind.USER_DEFINED,
    ll.LLAMA_TOKEN_ATTR_BYTE: Kind.BYTE,
}
_KIND_BITS = sum(_KINDS)
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE = 4 << 20  # bytes: weights, keys and values, but nothing that is made anew for each token


class _Log:
    """llama.cpp's log, which is one per process: into `logging`, and the last lines kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._callback = ll.llama_log_callback(self._take)

    def listen(self) -> None:
        """Begin anew; what is said from now on is in `lines`."""
        self.lines.clear()
        ll.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _take(self, level: int, text: bytes, _: object) -> None:
        if level in _LEVELS:
            line = text.decode("utf-8", "replace").strip()
            self.lines.append(line)
            del self.lines[:-400]
            _log.log(_LEVELS[level], "%s", line)


_llama_log = _Log()


class LlamaVocabulary(Vocabulary):
    """The vocabulary of a GGUF file, tokenised by llama.cpp."""

    def __init__(self, handle: Any, model: Any) -> None:
        n = ll.llama_vocab_n_tokens(handle)
        template = ll.llama_model_chat_template(model, None)
        super().__init__(
            pieces=[_piece(handle, i) for i in range(n)],
            kinds=[
                _KINDS.get(ll.llama_vocab_get_attr(handle, i) & _KIND_BITS, Kind.UNDEFINED)
                for i in range(n)
            ],
            end_ids=[i for i in range(n) if ll.llama_vocab_is_eog(handle, i)],
            template=template.decode("utf-8", "replace") if template else None,
            bos=_text(handle, ll.llama_vocab_bos(handle)),
            eos=_text(handle, ll.llama_vocab_eos(handle)),
        )
        self._handle = handle

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        ids = (ll.llama_token * room)()
        n = ll.llama_tokenize(self._handle, raw, len(raw), ids, room, False, special)
        if n < 0:
            room = -n
            ids = (ll.llama_token * room)()
            n = ll.llama_tokenize(self._handle, raw, len(raw), ids, room, False, special)
        return list(ids[:n])


def _piece(handle: Any, token: int) -> bytes:
    size = 64
    while True:
        buffer = ctypes.create_string_buffer(size)
        n = int(ll.llama_token_to_piece(handle, token, buffer, size, 0, True))
        if n >= 0:
            return buffer.raw[:n]
        size = -n


def _text(handle: Any, token: int) -> str:
    if token < 0:
        return ""
    return bytes(ll.llama_vocab_get_text(handle, token) or b"").decode("utf-8", "replace")


class LlamaModel:
    """Weights and vocabulary, shared by all contexts made from them.

    Args:
        path: a GGUF file; it is checked before llama.cpp opens it.
        options: where the layers go and how the file is mapped.
        vocabulary_only: load no weights; no context can be made.

    Raises:
        ModelError: the file is missing, damaged, or a model whose cache cannot be rolled back.
    """

    def __init__(self, path: Path, options: EngineOptions, vocabulary_only: bool = False) -> None:
        self.handle: Any = None
        self.path = path
        self.header = check(path)
        self._machine = read_machine()
        options = self.fitted(options)
        params = model_params(options.n_gpu_layers or 0)
        params.vocab_only = vocabulary_only
        params.load_mode = {
            (False, False): ll.LLAMA_LOAD_MODE_NONE,
            (True, False): ll.LLAMA_LOAD_MODE_MMAP,
            (False, True): ll.LLAMA_LOAD_MODE_MLOCK,
            (True, True): ll.LLAMA_LOAD_MODE_MMAP_MLOCK,
        }[options.mmap, options.mlock]
        _llama_log.listen()
        # Once a large buffer is freed, glibc would put all of that size among the small ones, where
        # they leave holes: a process that closes and opens models would grow and grow.
        _tell_allocator("mallopt", _M_MMAP_THRESHOLD, _LARGE)
        # llama.cpp would start a debugger on itself when it aborts, and wait for it for ever.
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")
        ll.llama_backend_init()
        self.handle = ll.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            reasons = [line for line in _llama_log.lines if "error" in line.lower()]
            reason = reasons[0] if reasons else "llama.cpp does not say why"
            raise ModelError(f"{path}: llama.cpp cannot load it ({reason})")
        self.backend = _backend(_llama_log.lines)
        self._require_rollback()
        self.vocab = LlamaVocabulary(ll.llama_model_get_vocab(self.handle), self.handle)

    def fitted(self, options: EngineOptions, contexts: int = 1) -> EngineOptions:
        """`options` with what they leave open chosen for this model on this machine.

        Args:
            options: as configured.
            contexts: how many full contexts are to be held.
        """
        return fit(options, self.header, self._machine, supports_gpu(), contexts)

    def _require_rollback(self) -> None:
        kinds = {
            "recurrent": ll.llama_model_is_recurrent,
            "hybrid": ll.llama_model_is_hybrid,
            "diffusion": ll.llama_model_is_diffusion,
            "encoder": ll.llama_model_has_encoder,
        }
        for kind, is_kind in kinds.items():
            if is_kind(self.handle):
                name = self.header.architecture
                self.close()
                raise ModelError(
                    f"{self.path}: {name} is a {kind} model, whose memory cannot be rolled back "
                    "token by token; use a plain transformer"
                )

    @property
    def name(self) -> str:
        """The file's name without its ending: what people call this model."""
        return self.path.name.removesuffix(".gguf")

    @property
    def n_ctx_train(self) -> int:
        """The context length that the model was trained for, in ids."""
        return int(ll.llama_model_n_ctx_train(self.handle))

    def close(self) -> None:
        """Free the weights. No context may be in use any more."""
        if self.handle is not None:
            ll.llama_model_free(self.handle)
            self.handle = None
            _tell_allocator("malloc_trim", 0)  # what is free goes back to the system


def _tell_allocator(function: str, *arguments: int) -> None:
    """Call a function of glibc's allocator; other C libraries have none such, and need none."""
    if sys.platform == "linux":
        found = getattr(ctypes.CDLL(None), function, None)
        if found is not None:
            found(*arguments)


def _backend(lines: list[str]) -> str:
    """Which backend really took the layers, as llama.cpp's log says it."""
    sizes = [
        match.groups()
        for line in lines
        if (match := re.search(r"(\S+) model buffer size\s*=\s*([\d.]+) MiB", line))
    ]
    where = ", ".join(f"{name} {size} MiB" for name, size in sizes) or "CPU"
    offloaded = [m[0] for line in lines if (m := re.search(r"\d+/\d+ layers to GPU", line))]
    return f"{where}; {offloaded[-1] if offloaded else 'no layer on a GPU'}"
