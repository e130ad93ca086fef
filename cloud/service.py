"""Everything that answers calls, without HTTP: model, sessions, owner thread, limits, keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..common.worker import Worker
from ..lm.engines.llama import LlamaContext
from ..lm.engines.llama_model import LlamaModel
from ..lm.vocabulary import Vocabulary
from ..wire.messages import Info, Limits
from .keys import Keys
from .options import VerifierOptions
from .verifier import Verifier

__all__ = ["Service", "load_service"]


@dataclass
class Service:
    """What the routes work with. `ready` goes false when the server begins to stop."""

    verifier: Verifier
    vocab: Vocabulary
    model_name: str
    backend: str
    worker: Worker
    limits: Limits
    keys: Keys
    ready: bool = True

    def info(self) -> Info:
        """What a device must know before it can ask."""
        return Info.of(self.model_name, self.vocab, self.verifier.n_ctx, self.limits)


def load_service(model: Path, options: VerifierOptions, keys: Keys) -> Service:
    """Load the model and make everything that the routes need.

    Raises:
        ModelError: the model is refused.
    """
    llm = LlamaModel(model, options.engine)
    n_ctx = min(options.engine.n_ctx or llm.n_ctx_train, llm.n_ctx_train)
    cells = options.cells or 8 * n_ctx
    n_ctx = min(n_ctx, cells)
    context = LlamaContext(llm, options.engine, cells, options.sessions, max_rows=64)
    return Service(
        verifier=Verifier(context, n_ctx, options.sessions, options.sessions_per_key),
        vocab=llm.vocab,
        model_name=llm.name,
        backend=llm.backend,
        worker=Worker("uhlm-model", options.queue),
        limits=options.limits,
        keys=keys,
    )
