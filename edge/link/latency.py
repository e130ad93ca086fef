"""Measured times of a session, and what follows from them: pipelining and the draft limit."""

from __future__ import annotations

from dataclasses import dataclass

_KEEP = 0.9  # weight of the past in every running mean
_LONGEST = 16


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
class LatencyModel:
    """Running means over the replies of a session; times in seconds.

    Attributes:
        draft: per drafted token, None before the first.
        round_trip: of a call, without the time of the verifier's model; None before the first.
        call: of a whole call; None before the first.
        acceptance: how often a judged draft stands.
    """

    draft: float | None = None
    round_trip: float | None = None
    call: float | None = None
    acceptance: float = 0.9
    _n: float = 0.0  # weighted sums over calls: 1, k, k^2, time, k time
    _k: float = 0.0
    _kk: float = 0.0
    _t: float = 0.0
    _kt: float = 0.0

    def drafted(self, seconds: float) -> None:
        """A token was drafted."""
        self.draft = _mean(self.draft, seconds)

    def called(self, seconds: float, model: float, positions: int) -> None:
        """A call took `seconds`, of which the model `model` for `positions` ids."""
        self.call = _mean(self.call, seconds)
        self.round_trip = _mean(self.round_trip, max(0.0, seconds - model))
        self._n = _KEEP * self._n + 1.0
        self._k = _KEEP * self._k + positions
        self._kk = _KEEP * self._kk + positions * positions
        self._t = _KEEP * self._t + model
        self._kt = _KEEP * self._kt + positions * model

    def judged(self, betas: list[float]) -> None:
        """Drafts were rejected with these probabilities."""
        for beta in betas:
            self.acceptance = _KEEP * self.acceptance + (1.0 - _KEEP) * (1.0 - beta)

    @property
    def pipelining_pays(self) -> bool:
        """Does a call last longer than a draft?"""
        return self.draft is not None and self.call is not None and self.call > self.draft

    @property
    def cost(self) -> tuple[float, float]:
        """Seconds of the verifier's model per call and per position, by least squares."""
        spread = self._n * self._kk - self._k**2
        if spread <= 1e-9 * max(1.0, self._kk):
            return 0.0, self._t / self._k if self._k else 0.0
        slope = max(0.0, (self._n * self._kt - self._k * self._t) / spread)
        return max(0.0, (self._t - slope * self._k) / self._n), slope

    def draft_limit(self, pipelined: bool) -> int:
        """The best limit by what is known so far; 4 before the first call."""
        if self.draft is None or self.round_trip is None:
            return 4
        fixed, per_draft = self.cost
        return best_draft_limit(
            self.acceptance, self.draft, self.round_trip, fixed, per_draft, pipelined
        )

    def ensemble_step(self) -> tuple[int, bool]:
        """The best step of an ensemble; both models at each token before the first call."""
        if self.draft is None or self.round_trip is None:
            return 1, False
        return best_ensemble_step(self.acceptance, self.draft, self.round_trip, *self.cost)


def _mean(old: float | None, new: float) -> float:
    return new if old is None else _KEEP * old + (1.0 - _KEEP) * new
