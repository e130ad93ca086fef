"""A call under way, and what of it goes into one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..lm.engines.protocol import Work
from ..wire.messages import Conflict, Reply, Request
from .judge import Answer, Ask
from .sessions import Session, SessionKey

__all__ = ["Call", "Outcome", "Part"]

Outcome = Reply | Conflict | Exception
_NOTHING = Ask(0, [], 0)


@dataclass(eq=False)
class Call:
    """A call under way.

    Attributes:
        key: whose session.
        request: checked by the wire.
        binding: of the request to its session.
        arrived, deadline: seconds of the scheduler's clock; nobody waits past the deadline.
        deliver: is told the outcome, in the owner's thread; it must neither wait nor raise.
        outcome: None until there is one.
        gone: its caller has hung up; set from any thread.
        session: set when the scheduler takes it in.
        steps: the coroutine, once it runs.
        ask: what it wishes for.
        fed: how many ids of that are cached.
        model: seconds of the passes that it took part in.
    """

    key: SessionKey
    request: Request
    binding: bytes
    arrived: float
    deadline: float
    deliver: Callable[[Outcome], None]
    outcome: Outcome | None = None
    gone: bool = False
    session: Session | None = None
    steps: Answer | None = None
    ask: Ask = _NOTHING
    fed: int = 0
    model: float = 0.0

    @property
    def left(self) -> int:
        """Ids that are still to be fed."""
        return len(self.ask.tokens) - self.fed

    @property
    def silent(self) -> int:
        """Those of them that need no row: they may be fed in slices."""
        return self.left - self.ask.rows


class Part(NamedTuple):
    """What of a call's wish goes into a pass."""

    call: Call
    work: Work
    is_last: bool

    @staticmethod
    def of(call: Call, n: int) -> Part:
        """The next `n` ids of the wish; its rows come with the last of them."""
        assert call.session is not None  # noqa: S101 - it runs
        is_last = n == call.left
        tokens = call.ask.tokens[call.fed : call.fed + n]
        return Part(
            call, Work(call.session.sequence, tokens, call.ask.rows if is_last else 0), is_last
        )
