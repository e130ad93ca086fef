"""How the device reaches a verifier, whatever lies in between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NoReturn, Protocol

from ...common.errors import DeadlineExceeded, Unreachable
from ...wire.messages import Conflict, Info, Reply, Request
from ..stats import Traffic


class Deadline:
    """A point in time that a whole call must not pass.

    It is enforced in one place, where the device waits (`Session`): only that covers everything
    that can take long, name resolution and a verifier in this process too. When it passes, the
    session gives the call up and resets the link, which closes its sockets, so that the thread
    left behind ends too. A link reads it only to begin nothing that nobody waits for.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - self._clock())

    def cancel(self) -> None:
        """Let it be over: nobody waits any more, and nothing new is sent."""
        self._end = -math.inf

    def check(self) -> None:
        """Raise DeadlineExceeded if it has passed."""
        if self.left <= 0.0:
            raise self.exceeded

    @property
    def exceeded(self) -> DeadlineExceeded:
        """What to raise when it has passed."""
        return DeadlineExceeded(f"the verifier took longer than {self.seconds:g} s")


class Link(Protocol):
    """How calls reach a verifier. Implementations: over HTTP, in this process, and none."""

    traffic: Traffic

    def info(self, deadline: Deadline) -> Info:
        """What the verifier says about itself. Raises CloudError."""
        ...

    def verify(
        self, session_id: str, request: Request, n_vocab: int, deadline: Deadline
    ) -> Reply | Conflict:
        """One call, tries and all. Raises CloudError; a failure is never an answer."""
        ...

    def forget(self, session_id: str, deadline: Deadline) -> None:
        """The session is over. Raises CloudError; nobody needs to know."""
        ...

    def reset(self) -> None:
        """Drop connections: a call was given up."""
        ...


class WrappedLink:
    """Passes everything on to another link. Subclasses change what they count, time or refuse."""

    def __init__(self, link: Link) -> None:
        self.link = link

    @property
    def traffic(self) -> Traffic:
        return self.link.traffic

    @traffic.setter
    def traffic(self, traffic: Traffic) -> None:
        self.link.traffic = traffic

    def info(self, deadline: Deadline) -> Info:
        return self.link.info(deadline)

    def verify(
        self, session_id: str, request: Request, n_vocab: int, deadline: Deadline
    ) -> Reply | Conflict:
        return self.link.verify(session_id, request, n_vocab, deadline)

    def forget(self, session_id: str, deadline: Deadline) -> None:
        self.link.forget(session_id, deadline)

    def reset(self) -> None:
        self.link.reset()


class NoLink:
    """No verifier: what a session without one is made with."""

    def __init__(self) -> None:
        self.traffic = Traffic()

    def info(self, deadline: Deadline) -> NoReturn:
        raise Unreachable("there is no verifier")

    def verify(
        self, session_id: str, request: Request, n_vocab: int, deadline: Deadline
    ) -> NoReturn:
        raise Unreachable("there is no verifier")

    def forget(self, session_id: str, deadline: Deadline) -> None:
        """Nobody holds anything."""

    def reset(self) -> None:
        """There is no connection."""
