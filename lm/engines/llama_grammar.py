"""Replies that match a grammar: which ids may come next, by llama.cpp's own grammar sampler.

A grammar comes from whoever asks, and llama.cpp has no defence against it: `("a"?){500}` takes
hours to match, and 100,000 brackets end the process. So grammars are read and matched by a child
process (`lm/engines/llama_grammar_child.py`), for which the system sets limits of time and memory.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.errors import EngineError, UsageError
from ...common.text import one_line
from ..child import Child
from ..sandbox import Refused
from .protocol import Matching

LONGEST = 64 << 10
"""Characters of a grammar or a schema."""

SECONDS = 2.0
"""Of computing that reading a grammar, or one token of it, may take."""

# The package is named by its file: where it lies in a clone, no folder of sys.path leads to it.
_START = (
    "import importlib.util as found, json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    "spec = found.spec_from_file_location('uhlm_edge', sys.argv[2]);"
    "sys.modules['uhlm_edge'] = package = found.module_from_spec(spec);"
    "spec.loader.exec_module(package);"
    "from uhlm_edge.lm.engines.llama_grammar_child import main; main()"
)
_PACKAGE = str(Path(__file__).parents[2] / "__init__.py")


class Grammars:
    """Reads grammars for the vocabulary of one model. Its child process starts with the first.

    Args:
        path: the model, a GGUF file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._numbers = 0

    def read(self, grammar: str | Mapping[str, Any]) -> Callable[[], Matching]:
        """Check a grammar; what is returned begins a text that must match it.

        Args:
            grammar: GBNF text, whose first rule is `root`; or a JSON schema.

        Raises:
            UsageError: it is none, is too long or too deep, refers to other documents, matches
                nothing, or takes too much time or memory.
            ResourceError: no process can be started to read it.
        """
        if isinstance(grammar, str):
            request = {"gbnf": grammar}
            length = len(grammar)
        else:
            try:
                request = {"schema": json.dumps(grammar)}
            except RecursionError:
                raise UsageError("the grammar is a JSON schema that is too deep") from None
            except (TypeError, ValueError):
                raise UsageError("the grammar must be GBNF or a JSON schema") from None
            length = len(request["schema"])
        if length > LONGEST:
            raise UsageError(f"the grammar has {length:,} characters; at most {LONGEST:,} are read")
        try:
            self._ask({"number": 0, **request})
        except Refused as error:
            raise UsageError(f"the grammar {one_line(str(error), 200)}") from None

        def begin() -> Matching:
            """One text. Each request has the whole grammar: a child started anew can answer."""
            with self._lock:
                self._numbers += 1
                number = self._numbers

            def mask(tokens: Sequence[int]) -> NDArray[np.bool_]:
                try:
                    bits = self._ask({"number": number, **request, "tokens": list(tokens)})
                except Refused as error:
                    raise EngineError(f"the grammar {one_line(str(error), 200)}") from None
                return np.unpackbits(np.frombuffer(bits, dtype=np.uint8)).view(bool)

            return mask

        return begin

    def close(self) -> None:
        """End the child. Twice is fine."""
        if self._child is not None:
            self._child.close()

    def _ask(self, request: Mapping[str, Any]) -> bytes:
        with self._lock:
            if self._child is None:
                first = {"path": str(self._path), "seconds": SECONDS}
                self._child = Child(_START, [_PACKAGE], first, "read the grammar")
        return self._child.ask(request)
