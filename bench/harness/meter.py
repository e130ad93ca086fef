"""What went over a link, call by call, and what verifier and device did for it.

The loop is not touched: link and engine are handed to it inside these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ...common.errors import CloudError
from ...edge.link.protocol import Deadline, Link, WrappedLink
from ...lm.engines.protocol import Engine, Logits
from ...lm.engines.wrapped import WrappedEngine

if TYPE_CHECKING:
    from ...cloud.verifier import Verifier
    from ...wire.messages import Conflict, Reply, Request


class PassCount(NamedTuple):
    """Forward passes of a model, and the positions evaluated in them."""

    passes: int
    positions: int

    def since(self, before: PassCount) -> PassCount:
        """What was done after `before`."""
        return PassCount(self.passes - before.passes, self.positions - before.positions)


class Meter(WrappedLink):
    """A link that notes the bytes of each request.

    Attributes:
        bodies: bytes of each request body.
        requests: the same with request line and headers; None if the link knows of none.
    """

    def __init__(self, link: Link, on_wire: bool = True) -> None:
        self.bodies: list[int] = []
        self.requests: list[int] | None = [] if on_wire else None
        super().__init__(link)

    def restart(self) -> None:
        """Begin new lists."""
        self.bodies = []
        self.requests = None if self.requests is None else []

    def verify(
        self, session_id: str, request: Request, n_vocab: int, deadline: Deadline
    ) -> Reply | Conflict:
        traffic = self.traffic
        payload, wire = traffic.payload_up, traffic.wire_up
        try:
            return super().verify(session_id, request, n_vocab, deadline)
        finally:
            self.bodies.append(traffic.payload_up - payload)
            if self.requests is not None:
                self.requests.append(traffic.wire_up - wire)


class VerifierCounters(Protocol):
    """What the verifier says that it did."""

    def read(self) -> PassCount | None:
        """Since it started; None if it does not tell."""
        ...


class HttpCounters:
    """`GET /metrics` of a verifier. With other users at the same time it counts their work too."""

    def __init__(self, url: str, key: str | None) -> None:
        import requests

        self._http = requests.Session()
        self._http.trust_env = False
        self._url = f"{url}/metrics"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def read(self) -> PassCount | None:
        import requests

        try:
            answer = self._http.get(
                self._url, headers=self._headers, timeout=10, allow_redirects=False
            )
        except requests.RequestException as error:
            raise CloudError(f"{self._url} does not answer: {type(error).__name__}") from None
        found = dict(
            re.findall(r"^uhlm_(passes|positions)_total (\d+)(?:\.0)?$", answer.text, re.M)
        )
        if answer.status_code != 200 or len(found) != 2:
            return None
        return PassCount(int(found["passes"]), int(found["positions"]))


class LocalCounters:
    """Those of a verifier in this process."""

    def __init__(self, verifier: Verifier) -> None:
        self._counters = verifier.counters

    def read(self) -> PassCount | None:
        return PassCount(self._counters.passes, self._counters.positions)


class CountingEngine(WrappedEngine):
    """An engine that counts."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.work = PassCount(0, 0)

    def eval(self, tokens: Sequence[int], rows: int = 1) -> Logits:
        self.work = PassCount(self.work.passes + bool(tokens), self.work.positions + len(tokens))
        return super().eval(tokens, rows)
