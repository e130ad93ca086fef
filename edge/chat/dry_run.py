"""Show what would leave the device, and send nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from ...configs.config import Config
from ...lm.vocabulary import Vocabulary
from ...wire.messages import Conflict, Info, Limits, Reply, Request
from ..link.protocol import Deadline
from ..link.session import Session
from ..stats import Traffic
from .assemble import assemble


class DryLink:
    """A link that prints each request and answers as a verifier that agrees with everything.

    Who the verifier is cannot be known without asking it, so the device's own template stands for
    its. Nothing is supplied: `cloud` and `reward` go on with the device's own tokens.

    Args:
        vocab: the device's.
        n_ctx: the device's.
        show: takes one line per request.
    """

    def __init__(self, vocab: Vocabulary, n_ctx: int, show: Callable[[str], None]) -> None:
        self.traffic = Traffic()
        self._vocab = vocab
        self._n_ctx = n_ctx
        self._show = show

    def info(self, deadline: Deadline) -> Info:
        return Info.of("nobody", self._vocab, self._n_ctx, Limits())

    def verify(
        self, session_id: str, request: Request, n_vocab: int, deadline: Deadline
    ) -> Reply | Conflict:
        body = request.pack()
        self.traffic.calls += 1
        self.traffic.payload_up += len(body)
        line = {
            "v": 1,
            "event": "upload",
            "bytes": len(body),
            "body": body.hex(),
            "start": request.start,
            "tokens": list(request.tokens),
            "text": self._read(request.tokens),
            "weights": list(request.weights),
            "drafts": [
                {"ids": d.ids.tolist(), "weights": d.weights.tolist()} for d in request.drafts
            ],
            "bonus": request.bonus,
            "settings": request.settings.model_dump() if request.settings else None,
        }
        self._show(json.dumps(line))
        n = len(request.drafts)
        held = request.start + len(request.tokens)
        return Reply(request.id, request.start, n, [], [0.0] * (len(request.weights) + n), held)

    def _read(self, tokens: Sequence[int]) -> str:
        """The ids as text, names of control ids included."""
        return b"".join(self._vocab.pieces[token] for token in tokens).decode("utf-8", "replace")

    def forget(self, session_id: str, deadline: Deadline) -> None:
        self._show(json.dumps({"v": 1, "event": "goodbye", "session": session_id}))

    def reset(self) -> None:
        """There is no connection."""


def dry_run(config: Config, text: str) -> None:
    """Answer a prompt without opening a connection, and print what would have left: JSON lines.

    Raises:
        UhlmError: see `assemble`.
    """
    offline = config.cloud.model_copy(update={"offline": True, "require": False})
    with assemble(config.model_copy(update={"cloud": offline}), lambda _: None) as assistant:
        device = assistant.device
        link = DryLink(device.vocab, device.cache.engine.n_ctx, print)
        assistant.session = Session(link, device.vocab, config.device.model)
        for _ in assistant.reply(text):
            pass
