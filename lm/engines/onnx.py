"""The ONNX engine: onnxruntime instead of llama.cpp, for devices where nothing can be compiled.

It runs a folder written by `uhlm-edge quantize --to onnx`: graph, weights, tokenizer.json and
vocabulary.json. Keys and values are kept here, in arrays of the full context; rolling back is to
forget how far they are filled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ...common.errors import ContextFull, EngineError, ModelError
from ...common.machine import read_machine
from ...common.text import one_line
from ..vocabulary import Vocabulary
from .options import EngineOptions
from .protocol import Logits

FORMAT = 1
_FIRST_ROOM = 512
_FILES = ("model.onnx", "model.onnx.data", "tokenizer.json", "vocabulary.json")
_MOST_BYTES = {"model.onnx": 64 << 20, "tokenizer.json": 256 << 20, "vocabulary.json": 256 << 20}
_MOST = {"layers": 1_000, "kv_heads": 1_000, "head_dim": 10_000, "context": 1 << 24}
_AGAIN = "export the model again"


class OnnxVocabulary(Vocabulary):
    """The vocabulary of an ONNX folder, tokenised by `tokenizers`."""

    def __init__(self, content: dict[str, Any], tokenizer: str) -> None:
        super().__init__(
            pieces=[piece.encode("latin-1") for piece in content["pieces"]],
            kinds=[int(kind) for kind in content["kinds"]],
            end_ids=[int(token) for token in content["end_ids"]],
            template=content["template"],
            bos=str(content["bos"]),
            eos=str(content["eos"]),
        )
        self._special, self._typed = (Tokenizer.from_str(tokenizer) for _ in range(2))
        for one in (self._special, self._typed):
            one.no_truncation()
            one.no_padding()
        self._typed.encode_special_tokens = True  # what looks like a control token stays text

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        text = text.encode("utf-8", "replace").decode()  # lone surrogates are refused otherwise
        tokenizer = self._special if special else self._typed
        return list(tokenizer.encode(text, add_special_tokens=False).ids)


class OnnxEngine:
    """The Engine of the device on onnxruntime: one sequence, on the processor.

    Args:
        folder: written by the export.
        options: `n_ctx`, `n_batch` and `n_threads` are used.

    Raises:
        ModelError: a file is missing, damaged, or of another kind.
    """

    def __init__(self, folder: Path, options: EngineOptions | None = None) -> None:
        options = options or EngineOptions()
        self.path = folder
        content = _read_content(folder)
        self.vocab: Vocabulary = _read_vocabulary(folder, content)
        self._session: Any = _open_session(folder, options)
        self._layers = int(content["layers"])
        cache = (int(content["kv_heads"]), int(content["head_dim"]))
        _compare(folder, self._session, self._layers, cache, len(content["pieces"]))
        context = int(content["context"])
        self.n_ctx = min(options.n_ctx or context, context)
        self.length = 0
        self._n_batch = options.n_batch
        room = min(_FIRST_ROOM, self.n_ctx)
        self._past: dict[str, NDArray[np.float32]] = {
            f"{layer}.{part}": np.empty((room, *cache), np.float32)
            for layer in range(self._layers)
            for part in ("key", "value")
        }

    def eval(self, tokens: Sequence[int], rows: int = 1) -> Logits:
        before = self.length
        if before + len(tokens) > self.n_ctx:
            raise ContextFull(f"no room for {len(tokens)} more tokens in a context of {self.n_ctx}")
        if not 0 <= rows <= len(tokens):
            raise EngineError(f"{rows} rows of {len(tokens)} tokens were asked for")
        if any(not 0 <= token < len(self.vocab.pieces) for token in tokens):
            raise EngineError("an id outside the vocabulary")
        parts: list[Logits] = []
        try:
            for start in range(0, len(tokens), self._n_batch):
                part = tokens[start : start + self._n_batch]
                silent = max(len(tokens) - rows - start, 0)
                parts.append(self._append(part, max(len(part) - silent, 0)))
        except Exception as error:  # onnxruntime has no error of its own that covers all
            self.length = before
            if isinstance(error, EngineError):
                raise
            reason = one_line(str(error), 200)
            raise EngineError(f"onnxruntime failed to run the model ({reason})") from error
        none = np.empty((0, len(self.vocab.pieces)), np.float32)
        logits = parts[-1] if len(parts) == 1 else np.concatenate([none, *parts])
        return logits[:, : len(self.vocab)]

    def _append(self, tokens: Sequence[int], rows: int) -> Logits:
        if self._session is None:
            raise EngineError("the engine is closed")
        at, end = self.length, self.length + len(tokens)
        feed: dict[str, NDArray[Any]] = {
            "ids": np.asarray(tokens, np.int64),
            "rows": np.asarray([rows], np.int64),
        }
        feed |= {f"past.{name}": array[:at] for name, array in self._past.items()}
        logits, *new = self._session.run(None, feed)
        for (name, array), block in zip(self._past.items(), new, strict=True):
            self._past[name] = _with_room(array, at, end, self.n_ctx)
            self._past[name][at:end] = block
        self.length = end
        return np.asarray(logits)

    def truncate(self, n: int) -> None:
        self.length = min(self.length, max(n, 0))

    def cut(self, at: int, n: int) -> bool:  # the keys cannot be turned to other positions
        return False

    def close(self) -> None:
        self._session = None
        self._past = {}


def _with_room(array: NDArray[np.float32], filled: int, end: int, most: int) -> NDArray[np.float32]:
    """The array, or a copy with twice the room, so that growing costs little in the long run."""
    if end <= len(array):
        return array
    larger = np.empty((min(max(end, 2 * len(array)), most), *array.shape[1:]), np.float32)
    larger[:filled] = array[:filled]
    return larger


def _read_content(folder: Path) -> dict[str, Any]:
    for name in _FILES:
        path = folder / name
        if not path.is_file():
            raise ModelError(
                f"{folder}: there is no {name} in it; make such a folder of a Hugging Face one"
                " with `uhlm-edge onnx`"
            )
        if path.stat().st_size > _MOST_BYTES.get(name, 1 << 50):
            raise ModelError(f"{path}: is too large to be what it should be; {_AGAIN}")
    path = folder / "vocabulary.json"
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["format"] != FORMAT:
            raise ModelError(f"{path}: is of another version of this program; {_AGAIN}")
        if not all(1 <= content[key] <= most for key, most in _MOST.items()):
            raise ValueError("a number out of range")
        if len(content["pieces"]) != len(content["kinds"]):
            raise ValueError("pieces and kinds differ in length")
        data = (folder / "model.onnx.data").stat().st_size
        if data != content["data_bytes"]:
            raise ModelError(
                f"{folder}/model.onnx.data: has {data} bytes, not {content['data_bytes']};"
                " copy it again"
            )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: is damaged ({one_line(repr(error), 100)}); {_AGAIN}") from error
    assert isinstance(content, dict)  # noqa: S101 -- it has keys
    return content


def _read_vocabulary(folder: Path, content: dict[str, Any]) -> OnnxVocabulary:
    path = folder / "tokenizer.json"
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != content.get("tokenizer_sha256"):
        raise ModelError(f"{path}: is not the one this model was exported with; {_AGAIN}")
    try:
        vocab = OnnxVocabulary(content, raw.decode())
        fingerprint = list(vocab.fingerprint)
    except Exception as error:  # tokenizers raises nothing more special
        reason = one_line(str(error), 100)
        raise ModelError(f"{path}: cannot be used ({reason}); {_AGAIN}") from error
    if fingerprint != content.get("fingerprint"):
        raise ModelError(f"{folder}/vocabulary.json: is damaged (fingerprint); {_AGAIN}")
    return vocab


def _open_session(folder: Path, options: EngineOptions) -> Any:
    settings = onnxruntime.SessionOptions()
    cores = max(1, read_machine().cores // options.processes)
    settings.intra_op_num_threads = options.n_threads or min(cores, 4)
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    # x86 without VNNI adds pairs of uint8 x int8 products in 16 bits, which saturate. With this the
    # runtime changes int8 weights to uint8 as it loads them, there and nowhere else.
    settings.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(
            str(folder / "model.onnx"), settings, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has no error of its own that covers all
        reason = one_line(str(error), 160)
        raise ModelError(f"{folder}/model.onnx: onnxruntime refuses it ({reason})") from error


def _compare(
    folder: Path, session: Any, layers: int, cache: tuple[int, int], vocabulary: int
) -> None:
    """Does the graph have the inputs and outputs that the engine feeds and reads?"""
    names = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    found = [(one.name, list(one.shape)) for one in session.get_inputs()]
    wanted = [("ids", ["T"]), ("rows", [1]), *((f"past.{n}", ["P", *cache]) for n in names)]
    made = [(one.name, list(one.shape)) for one in session.get_outputs()]
    given = [("logits", ["R", vocabulary]), *((f"new.{n}", ["T", *cache]) for n in names)]
    if found != wanted or made != given:
        raise ModelError(
            f"{folder}/model.onnx: does not fit vocabulary.json beside it, or is no export of"
            " `uhlm-edge onnx`"
        )
