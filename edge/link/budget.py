"""What the cloud may cost: caps on uploads, bytes, tokens and money, checked before each call."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...common.errors import CloudError, ResourceError
from ...common.files import atomic_output
from ...common.text import human_bytes
from ...configs.config import BudgetOptions, Caps
from ...wire.messages import Conflict, Reply, Request
from .protocol import Deadline, Link, WrappedLink


class BudgetReached(CloudError):
    """A cap would be exceeded: nothing was sent, and the text goes on without the cloud."""


@dataclass(frozen=True)
class Spent:
    """What calls have cost.

    Attributes:
        uploads: calls that were sent.
        bytes: of their bodies.
        tokens: that the LLM read or wrote for them.
        money: in the currency of the configured prices.
    """

    uploads: int = 0
    bytes: int = 0
    tokens: int = 0
    money: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


class Budget:
    """Counts what is spent per reply, session and day, and refuses what would exceed a cap.

    A day's counts are kept in a file, so that neither a restart nor a second process gets the
    day's budget anew. Each change is made under a lock on what the file holds then. A day ends
    when the clock (UTC) shows a later one: a clock that is set back resets nothing.

    Args:
        options: caps and prices.
        file: of the day's counts; it is only touched if the day has a cap.
        clock: seconds since 1970.
    """

    def __init__(
        self, options: BudgetOptions, file: Path, clock: Callable[[], float] = time.time
    ) -> None:
        self._options = options
        self._file = file
        self._clock = clock
        self.reply = self.session = Spent()
        self._today, self._day = "", Spent()

    @property
    def counts(self) -> bool:
        """Is there a cap or a price, so that there is something to count?"""
        return self._options != BudgetOptions()

    def begin_reply(self) -> None:
        """A new reply: its caps count from zero."""
        self.reply = Spent()

    def spend(self, n_bytes: int, n_tokens: int) -> None:
        """Account for a call that is about to be sent.

        Raises:
            BudgetReached: a cap would be exceeded; nothing was counted.
        """
        cost = self._cost(1, n_bytes, n_tokens)
        with self._locked():
            if (reason := self._exceeded(cost)) is not None:
                raise BudgetReached(reason)
            self._add(cost)

    def received(self, n_tokens: int) -> None:
        """Account for tokens that the LLM wrote."""
        if n_tokens:
            with self._locked():
                self._add(self._cost(0, 0, n_tokens))

    def to_json(self) -> dict[str, Any]:
        """Counts and caps per span; null: no cap."""
        with suppress(BudgetReached), self._locked():
            pass  # read what other processes spent
        return {
            span: {
                name: {"spent": value, "cap": getattr(caps, name)}
                for name, value in asdict(spent).items()
            }
            for span, spent, caps in self._spans()
        }

    def lines(self) -> list[str]:
        """The same in words, a line per span; no day that is not kept, and no money without price.

        A day without a cap begins with the process, so that its counts would be those of a session.
        """
        has_price = self._options.price_per_call or self._options.price_per_million_tokens
        lines = []
        for span, counts in self.to_json().items():
            if span == "day" and not self._keeps_days:
                continue
            parts = []
            for name, count in counts.items():
                if name == "money" and not has_price and count["cap"] is None:
                    continue
                cap = "" if count["cap"] is None else f" of {_amount(count['cap'])}"
                parts.append(f"{_amount(count['spent'])}{cap} {name}")
            lines.append(f"budget of this {span}: {', '.join(parts)}")
        return lines

    def _cost(self, uploads: int, n_bytes: int, n_tokens: int) -> Spent:
        options = self._options
        money = uploads * options.price_per_call + n_tokens * options.price_per_million_tokens / 1e6
        return Spent(uploads, n_bytes, n_tokens, money)

    def _spans(self) -> list[tuple[str, Spent, Caps]]:
        options = self._options
        return [
            ("reply", self.reply, options.reply),
            ("session", self.session, options.session),
            ("day", self._day, options.day),
        ]

    def _exceeded(self, cost: Spent) -> str | None:
        """Which cap does not allow a call of this cost?"""
        for span, spent, caps in self._spans():
            after = spent + cost
            for name, cap in caps.model_dump().items():
                if cap is not None and getattr(after, name) > cap:
                    amount = human_bytes(cap) if name == "bytes" else f"{_amount(cap)} {name}"
                    return f"the budget of this {span} is used up ({amount})"
        return None

    def _add(self, cost: Spent) -> None:
        self.reply, self.session, self._day = (
            s + cost for s in (self.reply, self.session, self._day)
        )
        if self._keeps_days:
            content = {"v": 1, "day": self._today, **asdict(self._day)}
            with self._kept(), atomic_output(self._file) as part:
                part.write_text(json.dumps(content) + "\n", "utf-8")

    @property
    def _keeps_days(self) -> bool:
        return any(value is not None for value in self._options.day.model_dump().values())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """What the file holds, as the only process that changes it."""
        if not self._keeps_days:
            yield
            return
        with self._kept():
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(f"{self._file}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            _lock(handle)
            self._read()
            yield
        finally:
            os.close(handle)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """What cannot be kept is not spent."""
        try:
            yield
        except (OSError, ResourceError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise BudgetReached(
                f"what is spent this day cannot be kept ({self._file}: {reason})"
            ) from None

    def _read(self) -> None:
        """Take the day's counts from the file; another process may have spent since."""
        now = datetime.fromtimestamp(max(self._clock(), 0.0), timezone.utc).date().isoformat()
        day, spent = _read(self._file)
        if day is None or now > day:
            day, spent = now, Spent()
        self._today, self._day = day, spent


def _amount(value: float) -> str:
    """For people: all digits of a count, and of money what is not zero at the end."""
    return f"{value:,.6f}".rstrip("0").rstrip(".")


class BudgetedLink(WrappedLink):
    """A link whose calls are paid for: what a cap does not allow is not sent.

    Args:
        link: to the verifier.
        budget: what may be spent.
    """

    def __init__(self, link: Link, budget: Budget) -> None:
        super().__init__(link)
        self.budget = budget

    def verify(
        self, session_id: str, request: Request, n_vocab: int, deadline: Deadline
    ) -> Reply | Conflict:
        self.budget.spend(len(request.pack()), len(request.tokens))
        answer = super().verify(session_id, request, n_vocab, deadline)
        if isinstance(answer, Reply):
            self.budget.received(len(answer.tokens))
        return answer


def _read(file: Path) -> tuple[str | None, Spent]:
    """The day of a file and its counts; None if there is none.

    Raises:
        BudgetReached: it is damaged. What was spent is not known, so it does not count as nothing.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
        day = datetime.strptime(content["day"], "%Y-%m-%d").date().isoformat()
        spent = Spent(**{f.name: content[f.name] for f in fields(Spent)})
        if any(type(v) not in (int, float) or not v >= 0 for v in asdict(spent).values()):
            raise ValueError
    except FileNotFoundError:
        return None, Spent()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BudgetReached(f"{file} is damaged; remove it to count this day anew") from None
    return day, spent


def _lock(handle: int) -> None:
    if os.name == "posix":
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)


def budget_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Where a day's counts are kept, in the user's state folder."""
    base = environment.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "uhlm-edge" / "budget.json"
