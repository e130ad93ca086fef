"""Measured times of a session, and what follows from them: pipelining and the draft limit."""

from __future__ import annotations

from dataclasses import dataclass, field

_KEEP = 0.9  # weight of the past in every running mean
_LONGEST = 16
_ENOUGH = 5.0  # passes from which on another one can be told to be odd


def best_draft_limit(
    acceptance: float,
    draft: float,
    round_trip: float,
    fixed: float,
    per_draft: float,
    pipelined: bool,
    longest: int = _LONGEST,
) -> int:
    """How many drafts in one upload settle the most tokens per second.

    A block of k drafts that each stand with probability alpha settles 1 + alpha + ... +
    alpha^(k-1) tokens (the first rejected one is replaced, what follows is void). It costs k
    drafts on the device, and a call: the round trip and the verifier's fixed + k per_draft. One
    after the other they add; pipelined they overlap, and the longer one counts.

    Args:
        acceptance: alpha, in [0, 1].
        draft: seconds per drafted token.
        round_trip: seconds of a call without the verifier's model.
        fixed, per_draft: seconds of the verifier's model for a call and for each draft in it.
        pipelined: whether the device drafts on during a call.
        longest: the largest limit that is tried.
    """
    best, best_rate, settled = 1, 0.0, 0.0
    for k in range(1, longest + 1):
        settled += acceptance ** (k - 1)
        call = round_trip + fixed + k * per_draft
        time = max(k * draft, call) if pipelined else k * draft + call
        rate = settled / time if time > 0.0 else settled
        if rate > best_rate * (1.0 + 1e-9):
            best, best_rate = k, rate
    return best


def best_ensemble_step(
    acceptance: float,
    draft: float,
    round_trip: float,
    fixed: float,
    per_position: float,
    longest: int = _LONGEST,
) -> tuple[int, bool]:
    """How an ensemble settles the most tokens per second: drafts, and a proposal or none.

    k drafts that each stand with probability alpha settle 1 + alpha + ... + alpha^(k-1) tokens, in
    k passes of the device and one of the LLM over k positions. With a proposal of the LLM's
    (arXiv 2502.01662, section 3) alpha^k more are settled, for one position more and a pass of the
    device, which judges it and reads it too: where it stands, the next draft needs no pass. One
    draft and no proposal is the standard ensemble: both models at each token. It is the first
    choice, so that another one must be faster.

    Args:
        acceptance: alpha, in [0, 1].
        draft: seconds of a pass of the device.
        round_trip: seconds of a call without the verifier's model.
        fixed, per_position: seconds of the verifier's model for a call and each position in it.
        longest: the largest k that is tried.
    """
    best, best_rate = (1, False), 0.0
    settled, all_stand = 0.0, 1.0
    for k in range(1, longest + 1):
        settled += all_stand
        all_stand *= acceptance
        time = k * draft + round_trip + fixed + k * per_position
        for tokens, seconds, proposes in (
            (settled, time, False),
            (
                settled + all_stand,
                time + all_stand * (1.0 - acceptance) * draft + per_position,
                True,
            ),
        ):
            rate = tokens / seconds if seconds > 0.0 else tokens
            if rate > best_rate * (1.0 + 1e-9):
                best, best_rate = (k, proposes), rate
    return best


@dataclass
class PassCost:
    """What a pass of a model takes: seconds per pass and per id, by least squares over passes.

    Attributes:
        keep: weight of the past at each pass.
        n, k, kk, t, kt: weighted sums of 1, ids, their squares, seconds, and seconds times ids.
    """

    keep: float = 0.97
    n: float = 0.0
    k: float = 0.0
    kk: float = 0.0
    t: float = 0.0
    kt: float = 0.0

    def add(self, seconds: float, ids: int, most: float | None = 3.0) -> None:
        """A pass over `ids` ids took `seconds`; one interrupted counts as `most` times the rest."""
        if most is not None and self.n > _ENOUGH:
            fixed, each = self.fit
            seconds = min(seconds, most * (fixed + each * ids))
        self.n = self.keep * self.n + 1.0
        self.k = self.keep * self.k + ids
        self.kk = self.keep * self.kk + ids * ids
        self.t = self.keep * self.t + seconds
        self.kt = self.keep * self.kt + ids * seconds

    @property
    def fit(self) -> tuple[float, float]:
        """Seconds per pass and per id; all per id while every pass was as wide as the others."""
        spread = self.n * self.kk - self.k**2
        if spread <= 1e-9 * max(1.0, self.kk):
            return 0.0, self.t / self.k if self.k else 0.0
        slope = max(0.0, (self.n * self.kt - self.k * self.t) / spread)
        return max(0.0, (self.t - slope * self.k) / self.n), slope


@dataclass
class LatencyModel:
    """Running means over the replies of a session; times in seconds.

    Attributes:
        draft: per drafted token, None before the first.
        round_trip: of a call, without the time of the verifier's model; None before the first.
        call: of a whole call; None before the first.
        acceptance: how often a judged draft stands.
        model: what a call costs the verifier's model.
    """

    draft: float | None = None
    round_trip: float | None = None
    call: float | None = None
    acceptance: float = 0.9
    model: PassCost = field(default_factory=lambda: PassCost(_KEEP))

    def drafted(self, seconds: float) -> None:
        """A token was drafted."""
        self.draft = _mean(self.draft, seconds)

    def called(self, seconds: float, model: float, positions: int) -> None:
        """A call took `seconds`, of which the model `model` for `positions` ids."""
        self.call = _mean(self.call, seconds)
        self.round_trip = _mean(self.round_trip, max(0.0, seconds - model))
        self.model.add(model, positions, None)

    def judged(self, betas: list[float]) -> None:
        """Drafts were rejected with these probabilities."""
        for beta in betas:
            self.acceptance = _KEEP * self.acceptance + (1.0 - _KEEP) * (1.0 - beta)

    @property
    def pipelining_pays(self) -> bool:
        """Does a call last longer than a draft?"""
        return self.draft is not None and self.call is not None and self.call > self.draft

    def draft_limit(self, pipelined: bool) -> int:
        """The best limit by what is known so far; 4 before the first call."""
        if self.draft is None or self.round_trip is None:
            return 4
        fixed, per_draft = self.model.fit
        return best_draft_limit(
            self.acceptance, self.draft, self.round_trip, fixed, per_draft, pipelined
        )

    def ensemble_step(self) -> tuple[int, bool]:
        """The best step of an ensemble; both models at each token before the first call."""
        if self.draft is None or self.round_trip is None:
            return 1, False
        return best_ensemble_step(self.acceptance, self.draft, self.round_trip, *self.model.fit)


def _mean(old: float | None, new: float) -> float:
    return new if old is None else _KEEP * old + (1.0 - _KEEP) * new
