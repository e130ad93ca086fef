"""The verifier's conversations: which ids it holds for whom, in which sequence of the context.

A session is *seated* while it has a sequence, and keys and values in it. One that had to go keeps
its ids, so that its device need not send them again, and with some memory set aside its keys and
values too (*parked*), so that the model need not read them again.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..common.errors import ContextFull
from ..lm.engines.protocol import Context
from ..lm.ids import common_length, left_out
from ..wire.messages import Reply, Settings

SessionKey = tuple[str, str]
"""(owner, session id): the owner is in the key, so a guessed session id reaches nothing."""

_LEAST_SHARED = 32  # ids; a shorter beginning is not worth a sequence
_GONE = 10.0  # seconds; a session that nobody asked for so long is not expected back soon
_REMEMBERED = 4  # sessions without a sequence, for each that has one


@dataclass(eq=False)
class Session:
    """A copy of one conversation.

    Attributes:
        ids: what it holds. The context may hold one id less: the last needs no row yet.
        read: how many of them the model may have read; what it read beyond was rejected.
        settings: of the current reply; None until a device sent some.
        last: the newest reply, returned again if its call is repeated.
        sequence: where its keys and values are; -1 while it is not seated.
        cached: how many of its ids are there.
        calls: of its device that wait or run.
        running: one of them is in the model now, so it may not be unseated.
        cells: of the pool that are set aside for it.
        shared: of its first ids, those whose cells belong to `prefix`.
        state: keys and values of its first `parked` ids, while it is parked.
        seated_at, used: when it got its sequence, and when it was last asked, in seconds.
    """

    ids: list[int] = field(default_factory=list)
    read: int = 0
    settings: Settings | None = None
    last: Reply | None = None
    sequence: int = -1
    cached: int = 0
    calls: int = 0
    running: bool = False
    forgotten: bool = False
    cells: int = 0
    prefix: _Prefix | None = None
    shared: int = 0
    state: bytes | None = None
    parked: int = 0
    seated_at: float = 0.0
    used: float = 0.0


@dataclass(eq=False)
class _Prefix:
    """A beginning that several sessions of one owner share: a system prompt, mostly."""

    owner: str
    ids: list[int]
    sequence: int
    users: int = 0


class SessionStore:
    """Sessions in order of use, and who must go when sequences or cells run out.

    Only the owner thread of the context may call it.

    Args:
        context: keys and values of all sessions.
        n_sequences: how many sessions can be seated.
        per_owner: how many of them one owner may have.
        n_prefixes: more sequences, for shared beginnings.
        parked_bytes: memory for keys and values of sessions that had to go.
        idle_seconds: sessions that nobody asked for so long are forgotten.
        quantum: seconds that a session with calls keeps its sequence when others want it: each
            change of place costs a prefill or a copy.
        clock: seconds, monotonic.

    Attributes:
        lost_ids, copy_seconds: what it costs to bring back those that made room: ids to be read
            again, and seconds to copy keys and values.
    """

    def __init__(
        self,
        context: Context,
        n_sequences: int,
        per_owner: int,
        n_prefixes: int = 0,
        parked_bytes: int = 0,
        idle_seconds: float = math.inf,
        quantum: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.used_cells = self.evictions = self.parked_bytes = 0
        self.lost_ids, self.copy_seconds = 0, 0.0
        self._context = context
        self._sessions: OrderedDict[SessionKey, Session] = OrderedDict()
        self._free = list(range(n_sequences))
        self._n_sequences = n_sequences
        self._per_owner = per_owner
        self._free_prefixes = list(range(n_sequences, n_sequences + n_prefixes))
        self._prefixes: list[_Prefix] = []
        self._parked_limit = parked_bytes
        self._idle_seconds = idle_seconds
        self._quantum = quantum
        self._clock = clock

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def seated(self) -> int:
        """Sessions that have a sequence."""
        return self._n_sequences - len(self._free)

    def use(self, key: SessionKey) -> Session:
        """The session of this key, newly made if unknown, and now the most recently used."""
        session = self._sessions.get(key)
        if session is None:
            self._forget_some()  # before: it could be the only one without a call
            session = self._sessions[key] = Session()
        self._sessions.move_to_end(key)
        session.used = self._clock()
        return session

    def seat(self, key: SessionKey, ids: Sequence[int], cells: int, swap: bool = True) -> bool:
        """Give a session a sequence and room for `cells` ids; False if it has to wait for that.

        Running sessions are never disturbed: only idle ones make room, the least recently used
        first, then those that had their sequence for long enough.

        Args:
            key: of a known session.
            ids: the text that it is going to hold.
            cells: how many ids it may come to hold in this call.
            swap: those whose device will soon ask again may have to make room.

        Raises:
            ContextFull: not even the whole pool would do.
        """
        if cells > self._context.n_ctx:
            raise ContextFull(f"no room for {cells} tokens in a pool of {self._context.n_ctx}")
        session = self._sessions[key]
        cells = max(cells, session.cached, session.parked)
        if not self._make_room(key, session, cells, swap):
            return False
        if session.sequence < 0:
            session.sequence = self._free.pop()
            session.seated_at = self._clock()
            self._charge(session, cells)
            if session.state is not None:
                self._unpark(session)
            else:
                self._share(key[0], session, ids)
        self._charge(session, cells - session.shared)
        session.running = True
        return True

    def slide(self, session: Session, text: list[int]) -> None:
        """Forget what `text` leaves out of a seated session, and keep what was read after it."""
        at, n = left_out(session.ids[: session.cached], text)
        # Cells that others share must stay where they are.
        if n and at >= session.shared and self._context.cut(at, n, session.sequence):
            del session.ids[at : at + n]
            session.cached -= n

    def release(self, key: SessionKey, session: Session) -> None:
        """A call of the session is over: it is idle until the next."""
        session.running = False
        if session.forgotten:
            self._unseat(session)
            return
        session.cached = min(self._context.length(session.sequence), session.read)
        self._context.truncate(session.cached, session.sequence)
        if session.cached < session.shared:
            session.shared = session.cached
        self._charge(session, session.cached - session.shared)
        self._sessions.move_to_end(key)
        session.used = self._clock()

    def drop(self, key: SessionKey) -> None:
        """Forget a session; unknown ones are forgotten already."""
        session = self._sessions.pop(key, None)
        if session is None:
            return
        session.forgotten = True
        self._forget_state(session)
        if not session.running:
            self._unseat(session)

    def sweep(self) -> None:
        """Forget what nobody asked for in a long time."""
        limit = self._clock() - self._idle_seconds
        while self._sessions:
            key, oldest = next(iter(self._sessions.items()))
            if oldest.used > limit or oldest.calls or oldest.running:
                return
            self.drop(key)

    # Room

    def _make_room(self, key: SessionKey, session: Session, cells: int, swap: bool) -> bool:
        seated = session.sequence >= 0
        more = cells - (session.cells + session.shared if seated else 0)
        over = self.used_cells + more - self._context.n_ctx
        if over <= 0 and (seated or (self._free and self._may_have_more(key[0]))):
            return True
        lacking = not seated and not self._free
        share = not seated and not self._may_have_more(key[0])
        chosen: list[Session] = []
        for other_key, other in self._victims(session, swap):
            own = other_key[0] == key[0]
            if (share and own) or (not share and (over > 0 or lacking)):
                chosen.append(other)
                over, lacking, share = over - other.cells, False, False
        if share or lacking:
            return False
        leaving = [other.prefix for other in chosen]
        doomed: list[_Prefix] = []
        for prefix in self._prefixes:
            if over > 0 and prefix.users == leaving.count(prefix):
                doomed.append(prefix)
                over -= len(prefix.ids)
        if over > 0:
            return False
        for other in chosen:
            begun = self._clock()
            self._park(other)
            if self._is_gone(other, begun):
                pass
            elif other.state is None:
                self.lost_ids += other.cached - other.shared
            else:
                self.copy_seconds += 2.0 * (self._clock() - begun)
            self._unseat(other)
            self.evictions += 1
        for prefix in doomed:
            self._drop_prefix(prefix)
        return True

    def _victims(self, but: Session, swap: bool) -> list[tuple[SessionKey, Session]]:
        """Who may be unseated, in this order."""
        now = self._clock()
        idle = [
            (key, s)
            for key, s in self._sessions.items()
            if s.sequence >= 0 and not s.running and s is not but
        ]
        if not swap:
            return [pair for pair in idle if self._is_gone(pair[1], now)]
        rested = [pair for pair in idle if not pair[1].calls]
        asked = [
            pair for pair in idle if pair[1].calls and now - pair[1].seated_at >= self._quantum
        ]
        return rested + sorted(asked, key=lambda pair: pair[1].seated_at)

    def _is_gone(self, session: Session, now: float) -> bool:
        return not session.calls and now - session.used >= _GONE

    def _may_have_more(self, owner: str) -> bool:
        if self._per_owner >= self._n_sequences:
            return True
        return self._per_owner > sum(
            s.sequence >= 0 for key, s in self._sessions.items() if key[0] == owner
        )

    def _charge(self, session: Session, cells: int) -> None:
        self.used_cells += cells - session.cells
        session.cells = cells

    def _unseat(self, session: Session) -> None:
        if session.sequence < 0:
            return
        self._context.truncate(0, session.sequence)
        self._free.append(session.sequence)
        if session.prefix is not None:
            session.prefix.users -= 1
        self._charge(session, 0)
        session.sequence, session.cached, session.shared, session.prefix = -1, 0, 0, None

    def _forget_some(self) -> None:
        """Sessions without a sequence cost little, but not nothing."""
        while len(self._sessions) > (1 + _REMEMBERED) * self._n_sequences:
            idle = (k for k, s in self._sessions.items() if s.sequence < 0 and not s.calls)
            key = next(idle, None)
            if key is None:
                return
            self.drop(key)

    # Parking

    def _park(self, session: Session) -> None:
        """Keep keys and values in memory, if there is room, or those parked are not wanted back.

        While devices take turns, the oldest is the one that comes next: it stays.
        """
        size = session.cached and self._context.state_bytes(session.sequence)
        if session.cached < 2 or size > self._parked_limit:
            return
        now = self._clock()
        for other in list(self._sessions.values()):
            if self.parked_bytes + size <= self._parked_limit:
                break
            if self._is_gone(other, now):
                self._forget_state(other)
        if self.parked_bytes + size <= self._parked_limit:
            session.state, session.parked = self._context.save(session.sequence), session.cached
            self.parked_bytes += len(session.state)

    def _unpark(self, session: Session) -> None:
        assert session.state is not None  # noqa: S101 - asked before
        self._context.load(session.sequence, session.state, session.parked)
        session.cached = session.parked
        self._forget_state(session)

    def _forget_state(self, session: Session) -> None:
        if session.state is not None:
            self.parked_bytes -= len(session.state)
        session.state, session.parked = None, 0

    # Shared beginnings. Only within an owner: what others have read must not show in the time
    # that a call takes.

    def _share(self, owner: str, session: Session, ids: Sequence[int]) -> None:
        """Begin with what another session of the owner has read already."""
        text = list(ids)
        for prefix in self._prefixes:
            if prefix.owner == owner:
                n = common_length(prefix.ids, text)
                if n >= _LEAST_SHARED:
                    self._begin_with(session, prefix, n)
                    return
        for key, other in reversed(self._sessions.items()):
            if key[0] != owner or other.sequence < 0 or other is session or other.prefix:
                continue
            n = common_length(other.ids[: other.cached], text)
            if n >= _LEAST_SHARED and (made := self._new_prefix(owner, text[:n])):
                self._context.share(other.sequence, made.sequence, n)
                other.prefix, other.shared = made, n
                made.users += 1
                self._charge(other, other.cells - n)
                self.used_cells += n
                self._begin_with(session, made, n)
                return

    def _begin_with(self, session: Session, prefix: _Prefix, n: int) -> None:
        self._context.share(prefix.sequence, session.sequence, n)
        prefix.users += 1
        session.prefix, session.shared, session.cached = prefix, n, n
        if session.ids[:n] != prefix.ids[:n]:
            session.ids = prefix.ids[:n]

    def _new_prefix(self, owner: str, ids: list[int]) -> _Prefix | None:
        if not self._free_prefixes:
            unused = next((p for p in self._prefixes if p.users == 0), None)
            if unused is None:
                return None
            self._drop_prefix(unused)
        prefix = _Prefix(owner, ids, self._free_prefixes.pop())
        self._prefixes.append(prefix)
        return prefix

    def _drop_prefix(self, prefix: _Prefix) -> None:
        self._prefixes.remove(prefix)
        self._context.truncate(0, prefix.sequence)
        self._free_prefixes.append(prefix.sequence)
        self.used_cells -= len(prefix.ids)
