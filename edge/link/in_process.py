"""A verifier in the same process as the device: the same protocol, no network in between."""

from __future__ import annotations

from ...cloud.service import Service, load_service
from ...common.keys import Keys
from ...configs.config import Config
from ...models.resolve import find_model
from ...wire.messages import Conflict, Info, Reply, Request
from ..stats import Traffic
from .protocol import Deadline


class LocalLink:
    """Calls a Service directly, through the bytes of the wire."""

    def __init__(self, service: Service) -> None:
        self.traffic = Traffic()
        self._service = service

    def info(self, deadline: Deadline) -> Info:
        return self._service.info()

    def verify(
        self, session_id: str, request: Request, n_vocab: int, deadline: Deadline
    ) -> Reply | Conflict:
        body = request.pack()
        self.traffic.calls += 1
        self.traffic.payload_up += len(body)
        sent = Request.unpack(body, self._service.limits, n_vocab)
        answer = self._service.verifier.verify(("", session_id), sent)
        if isinstance(answer, Conflict):
            return answer
        body = answer.pack()
        self.traffic.payload_down += len(body)
        return Reply.unpack(body, request, n_vocab, session_id)

    def forget(self, session_id: str, deadline: Deadline) -> None:
        self._service.verifier.store.drop(("", session_id))

    def reset(self) -> None:
        """There is no connection."""


def load_partner(config: Config) -> LocalLink:
    """The second model of `--partner`, run like a verifier.

    Raises:
        ModelError: it is refused.
    """
    (name,) = config.strategy.partner or (config.verifier.model,)
    service = load_service(find_model(name), config.verifier, Keys())
    return LocalLink(service)
