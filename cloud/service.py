"""Everything that answers calls, without HTTP: verifier, limits, keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..common.errors import ConfigError
from ..common.keys import Keys, read_key_file
from ..common.machine import read_machine
from ..lm.engines.fit import chosen
from ..lm.engines.llama import LlamaContext
from ..lm.engines.llama_model import LlamaModel
from ..lm.vocabulary import Vocabulary
from ..wire.messages import Info, Limits
from .guard import Guard
from .options import VerifierOptions
from .verifier import Verifier

_MOST_SEQUENCES = 256  # of a llama.cpp context
_PREFIXES = 8
_ROW_BYTES = 128 << 20  # for the rows of one pass, float32
_CONTEXTS = 8  # full ones, unless the options say how many cells


@dataclass
class Service:
    """What the routes work with.

    Attributes:
        backend: where the layers are, threads and context, for the user.
        ready: goes false when the server begins to stop.
        call_seconds: most time that a call may take, whatever its device would wait.
        calls_per_s: of one key; 0: as many as it likes.
    """

    verifier: Verifier
    vocab: Vocabulary
    model_name: str
    backend: str
    limits: Limits
    keys: Keys
    ready: bool = True
    call_seconds: float = 60.0
    calls_per_s: float = 0.0

    def __post_init__(self) -> None:
        self.guard = Guard(self.keys, self.calls_per_s)

    def info(self) -> Info:
        """What a device must know before it can ask."""
        return Info.of(self.model_name, self.vocab, self.verifier.n_ctx, self.limits)

    def gauges(self) -> dict[str, float]:
        """How things stand now."""
        store = self.verifier.store
        return {
            "open_calls": self.verifier.scheduler.open_calls,
            "sessions": len(store),
            "seated_sessions": store.seated,
            "cells_used": store.used_cells,
            "parked_bytes": store.parked_bytes,
            "evictions": store.evictions,
        }


def load_service(model: Path, options: VerifierOptions, keys: Keys) -> Service:
    """Load the model and make everything that the routes need.

    Raises:
        ModelError: the model is refused.
        ConfigError: an engine that runs elsewhere is configured, and not where.
        EngineError: it does not answer.
    """
    if options.runtime != "llama":
        return _with_upstream(options.runtime, model, options, keys)
    llm = LlamaModel(model, options.engine)
    engine = llm.fitted(options.engine, contexts=1 if options.cells else _CONTEXTS)
    n_ctx = engine.n_ctx
    cells = options.cells or _CONTEXTS * n_ctx
    n_ctx = min(n_ctx, cells)
    sessions, n_prefixes = options.sessions, _PREFIXES
    if options.apart:  # as many as have room for a full context each
        sessions, n_prefixes = max(1, min(sessions, cells // n_ctx)), 0
        cells = sessions * n_ctx
    n_sequences = min(_MOST_SEQUENCES, sessions + n_prefixes)
    rows = max(64, min(options.engine.n_batch, _ROW_BYTES // (4 * len(llm.vocab))))
    context = LlamaContext(llm, engine, cells, n_sequences, rows, options.apart)
    verifier = Verifier(
        context, n_ctx, sessions, min(options.sessions_per_key or sessions, sessions),
        n_prefixes=n_sequences - sessions, parked_bytes=_parked_bytes(options.parked_mb),
        idle_seconds=options.idle_seconds, quantum=options.quantum, queue=options.queue,
    )  # fmt: skip
    backend = f"{llm.backend}; {chosen(engine)}"
    return Service(
        verifier, llm.vocab, llm.name, backend, options.limits, keys,
        call_seconds=options.call_seconds, calls_per_s=options.calls_per_s,
    )  # fmt: skip


def _parked_bytes(megabytes: int | None) -> int:
    """Memory for sessions without a place, where the model is in memory already."""
    free = read_machine().available if megabytes is None else None
    return (256 if megabytes is None else megabytes) << 20 if free is None else free // 4


def _with_upstream(
    kind: Literal["vllm", "sglang"], model: Path, options: VerifierOptions, keys: Keys
) -> Service:
    """Sessions and verdicts here, the model in an engine that runs elsewhere."""
    from .engines.context import UpstreamContext  # with its HTTP client, 6 % of a start
    from .engines.upstream import open_upstream

    given = options.upstream
    if given.url is None:
        raise ConfigError(f"where is {kind}? give --upstream URL")
    key = read_key_file(given.key_file.expanduser())[0] if given.key_file else None
    upstream = open_upstream(kind, given.url, key, given.top, given.model, given.timeout)
    family = LlamaModel(model, options.engine, vocabulary_only=True)
    cells = options.cells or options.sessions * upstream.n_ctx  # ids only: no keys, no values
    context = UpstreamContext(upstream, family.vocab, cells, options.sessions)
    verifier = Verifier(
        context, min(upstream.n_ctx, cells), options.sessions,
        options.sessions_per_key or options.sessions, idle_seconds=options.idle_seconds,
        quantum=options.quantum, queue=options.queue,
    )  # fmt: skip
    limits = options.limits.model_copy(update={"sampler_top_k": upstream.top})
    return Service(
        verifier, family.vocab, upstream.name, f"{kind} at {given.url}", limits, keys,
        call_seconds=options.call_seconds, calls_per_s=options.calls_per_s,
    )  # fmt: skip
