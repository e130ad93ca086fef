"""What went over a link, call by call, and what verifier and device did for it.

The loop is not touched: link and engine are handed to it inside these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...common.errors import CloudError
from ...edge.link.protocol import Deadline, Link, WrappedLink
from ...lm.engines.protocol import Engine, Logits, WrappedEngine
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


VerifierCounters = Callable[[], PassCount | None]
"""What the verifier did since it started; None if it does not tell."""


def http_counters(url: str, key: str | None) -> VerifierCounters:
    """By `GET /metrics`. With other users at the same time it counts their work too.

    What it returns raises CloudError where the verifier does not answer.
    """
    import requests

    http, url = requests.Session(), f"{url}/metrics"
    http.trust_env = False
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    def read() -> PassCount | None:
        try:
            answer = http.get(url, headers=headers, timeout=10, allow_redirects=False)
        except requests.RequestException as error:
            raise CloudError(f"{url} does not answer: {type(error).__name__}") from None
        counted = re.findall(r"^uhlm_(passes|positions)_total (\d+)(?:\.0)?$", answer.text, re.M)
        found = {name: int(count) for name, count in counted}
        return PassCount(**found) if answer.status_code == 200 and len(found) == 2 else None

    return read


class CountingEngine(WrappedEngine):
    """An engine that counts."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.work = PassCount(0, 0)

    def eval(self, tokens: Sequence[int], rows: int = 1) -> Logits:
        self.work = PassCount(self.work.passes + bool(tokens), self.work.positions + len(tokens))
        return super().eval(tokens, rows)
