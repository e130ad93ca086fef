"""What the loop says, event by event. Terminal, JSON, server and benchmarks only read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..lm.sampling import Distribution

Source = Literal["edge", "cloud"]


@dataclass(frozen=True, slots=True)
class Draft:
    """A token that the device proposes and nothing has committed yet.

    Attributes:
        index: position in the reply.
        id: the token.
        q: what it was drawn from.
        uncertainty: u (docs/method.md, section 2), None if nobody asked for it.
        reward: the head's acceptance probability, None if nobody asked for it.
        log_q: logarithms of the whole q, shape (V,), kept only for a contrastive target.
        due: the strategy wants the verifier's verdict on it.
    """

    index: int
    id: int
    q: Distribution
    uncertainty: float | None = None
    reward: float | None = None
    log_q: NDArray[np.float64] | None = None
    due: bool = False

    @property
    def weight(self) -> int:
        """The rounded q(id) TOTAL: what is sent for a skipped token."""
        return self.q.weight(self.id)


@dataclass(frozen=True, slots=True)
class Token:
    """A committed token of the reply: it is never taken back.

    Attributes:
        index: position in the reply.
        id: the token.
        text: the text it completes; "" in the middle of a character and at the end of text.
        source: who wrote it: `edge` (the draft stands) or `cloud` (replaced or supplied).
        uncertainty: u of the draft, None if it was not measured.
        uploaded: the verifier was asked about this very token.
        accepted: its verdict; None if it gave none.
        unverified: the strategy wanted a verdict and there was none: the verifier was away.
        time: seconds since the reply began.
        reason: why it has this source, where that was decided for the whole reply (`handoff`).
    """

    index: int
    id: int
    text: str
    source: Source
    uncertainty: float | None
    uploaded: bool
    accepted: bool | None
    unverified: bool
    time: float
    reason: str | None = None


class Outcome(NamedTuple):
    """The first drafts stand, then tokens take the place of the others.

    Attributes:
        accepted: how many of the call's drafts stand.
        tokens: what follows them: a replacement, or what the LLM supplied.
        source: who wrote `tokens`.
        verdict: `Token.accepted` of `tokens`.
        held: the verifier holds `tokens` too.
    """

    accepted: int
    tokens: Sequence[int] = ()
    source: Source = "cloud"
    verdict: bool | None = None
    held: bool = True


@dataclass(frozen=True, slots=True)
class SkippedVerdict:
    """What a later call told about a skipped token: its rejection probability."""

    index: int
    uncertainty: float | None
    beta: float


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know once, in one line."""

    text: str


Event = Token | SkippedVerdict | Notice
