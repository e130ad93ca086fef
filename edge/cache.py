"""The device's ids and the engine's copy of them, kept in step."""

from __future__ import annotations

from collections.abc import Sequence

from ..lm.engines.protocol import Engine, Logits
from ..lm.ids import common_length, left_out


class TokenCache:
    """Ids of the conversation on the device. The engine follows when a row is wanted.

    Nothing is evaluated twice: a rollback forgets from there on, and a new prompt keeps what it
    has in common with the old one.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ids: list[int] = []
        self._ahead: tuple[int, Logits] | None = None  # an id read before it is appended, its row

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def room(self) -> int:
        """How many more ids the context can hold."""
        return self.engine.n_ctx - len(self.ids)

    def restart(self, ids: Sequence[int]) -> None:
        """Begin with other ids, keeping the engine's work on a common beginning."""
        ids = list(ids)
        self._forget_ahead()
        self.rollback(common_length(self.ids[: self.engine.length], ids))
        self.ids = ids

    def slide(self, ids: Sequence[int]) -> None:
        """Before `restart` with `ids`, which leave out a part of this conversation.

        What was read after that part is kept, if the engine can: moved up, not read again. So the
        model's rows still carry what it saw of that part.
        """
        self._forget_ahead()
        at, n = left_out(self.ids[: self.engine.length], list(ids))
        if n and self.engine.cut(at, n):
            del self.ids[at : at + n]

    def append(self, token: int) -> None:
        """One more id."""
        if self._ahead is not None and self._ahead[0] != token:
            self._forget_ahead()
        self.ids.append(token)

    def rollback(self, n: int) -> None:
        """Keep the first `n` ids."""
        if n >= len(self.ids):
            return
        self._forget_ahead()
        del self.ids[n:]
        if self.engine.length > n:
            self.engine.truncate(n)

    @property
    def unread(self) -> int:
        """How many ids the engine has not evaluated yet."""
        return max(0, len(self.ids) - self.engine.length)

    def read_all_but_last(self) -> None:
        """Evaluate what is unread, so that `row` has one id left to do."""
        self.engine.eval(self.ids[self.engine.length : -1], rows=0)

    def row(self) -> Logits:
        """The logits after the last id, shape (V,), valid until the next call.

        Raises:
            ContextFull: the ids do not fit.
        """
        if self._ahead is not None and self.engine.length == len(self.ids):
            return self._ahead[1]
        row: Logits = self.rows(1)[0]
        return row

    def row_before(self, token: int) -> Logits:
        """The logits after the last id, by a pass that also reads `token`, which may follow it.

        If it is appended next, `row` has its row without a pass.

        Raises:
            ContextFull: the ids do not fit.
        """
        self._forget_ahead()
        start = min(self.engine.length, len(self.ids) - 1)
        if self.engine.length > start:
            self.engine.truncate(start)
        before, after = self.engine.eval([*self.ids[start:], token], 2)
        self._ahead = token, after.copy()
        row: Logits = before
        return row

    def _forget_ahead(self) -> None:
        self._ahead = None
        if self.engine.length > len(self.ids):
            self.engine.truncate(len(self.ids))

    def rows(self, n: int, but: int = 0) -> Logits:
        """The logits after each of the last `n` ids, the last `but` not counted; shape (n, V).

        Raises:
            ContextFull: the ids do not fit.
        """
        self._ahead = None
        end = len(self.ids) - but
        start = min(self.engine.length, end - n)
        if self.engine.length > start:
            self.engine.truncate(start)  # rows that are gone are computed anew
        return self.engine.eval(self.ids[start:end], n)
