"""The verifier's conversations: which ids it holds for whom, in which sequence of the context."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from ..lm.engines.protocol import Context
from ..wire.messages import Reply, Settings

__all__ = ["Session", "SessionKey", "SessionStore"]

SessionKey = tuple[str, str]
"""(owner, session id): the owner is in the key, so a guessed session id reaches nothing."""


@dataclass
class Session:
    """A copy of one conversation.

    Attributes:
        sequence: where its keys and values are; -1 while it has none.
        ids: what it holds. The context may hold one id less: the last needs no row yet.
        settings: of the current reply; None until a device sent some.
        last: the newest reply, returned again if its call is repeated.
    """

    sequence: int = -1
    ids: list[int] = field(default_factory=list)
    settings: Settings | None = None
    last: Reply | None = None


class SessionStore:
    """Sessions in order of use, and who must go when sequences or cells run out.

    Only the owner thread of the context may call it, so every session but the one it works on is
    idle.

    Args:
        context: keys and values of all sessions.
        n_sequences: how many sessions can have a sequence.
        per_owner: how many sessions one owner may have.
    """

    def __init__(self, context: Context, n_sequences: int, per_owner: int) -> None:
        self._context = context
        self._sessions: OrderedDict[SessionKey, Session] = OrderedDict()
        self._free = list(range(n_sequences))
        self._per_owner = per_owner

    def __len__(self) -> int:
        return len(self._sessions)

    def use(self, key: SessionKey) -> Session:
        """The session of this key, newly made if unknown, and now the most recently used."""
        session = self._sessions.get(key)
        if session is None:
            mine = [k for k in self._sessions if k[0] == key[0]]
            if len(mine) >= self._per_owner:
                self.drop(mine[0])
            if not self._free:
                self.drop(next(iter(self._sessions)))
            session = self._sessions[key] = Session(self._free.pop())
        self._sessions.move_to_end(key)
        return session

    def make_room(self, session: Session, cells: int) -> None:
        """Drop least recently used sessions until `session` can hold `cells` ids.

        Their devices send everything again with the next call.
        """
        for key in list(self._sessions):
            others = sum(
                self._context.length(s.sequence)
                for s in self._sessions.values()
                if s is not session
            )
            if others + cells <= self._context.n_ctx:
                return
            if self._sessions[key] is not session:
                self.drop(key)

    def drop(self, key: SessionKey) -> None:
        """Forget a session; unknown ones are forgotten already."""
        session = self._sessions.pop(key, None)
        if session is not None:
            self._context.truncate(0, session.sequence)
            self._free.append(session.sequence)
