"""A threshold that learns to keep a target risk, whatever the text.

Adaptive conformal inference (Gibbs and Candes 2021, arXiv 2106.00170): after each token whose
rejection probability beta has become known,

    u_th += gamma (epsilon - 1[skipped] beta).

An uploaded token counts as 0, so that the threshold rises again and is never stuck. Summed up, the
loss of T tokens is epsilon T + (u_th at the beginning - u_th at the end) / gamma, so the mean risk
is off by at most the range of u_th over (gamma T), for any text, and however late the betas come.

`Adaptive` sees to it that every beta comes: audits ask for those that no upload brings. `Learning`
takes the same step with what uploads bring anyway and makes no call of its own. It never sees the
tokens after the last upload, so it promises nothing; it begins at a calibrated threshold, comes
down where the text is worse than calibrated, and climbs back to that threshold and no further.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

from ...common.errors import ResourceError
from ...common.files import write_whole
from ...configs.config import AskBy
from ...lm.draws import Draws
from ..events import Draft, SkippedVerdict
from .policies import NEEDS, doubt

_log = logging.getLogger("uhlm_edge.adaptive")
_log.addHandler(logging.NullHandler())


class Adaptive:
    """Policy `adaptive`. SkippedVerdict tokens that were uploaded must be told too, with beta 0.

    Args:
        start: the threshold to begin with, from calibration.
        target: epsilon, the risk per generated token that is aimed at.
        rate: gamma, how far one token moves the threshold.
        state: file that keeps the threshold from run to run; None: it is forgotten.
        pair: names the pair of models; a state of another one is not taken up.
        ask_by: what the threshold is of.
    """

    audit_after: int | None = 64

    def __init__(
        self,
        start: float,
        target: float = 0.001,
        rate: float = 0.05,
        state: Path | None = None,
        pair: str = "",
        ask_by: AskBy = "uncertainty",
    ) -> None:
        self.needs = NEEDS[ask_by]
        self._ask_by: AskBy = ask_by
        self.target = target
        self.rate = rate
        self.tokens = 0
        self.loss = 0.0
        self._state = state
        self._pair = pair
        self.threshold = self._clamped(start)
        if state is not None:
            self._resume(state)

    def upload(self, draft: Draft, draws: Draws) -> bool:
        found = doubt(draft, self._ask_by)
        return found is None or found > self.threshold

    def observe(self, judged: SkippedVerdict) -> None:
        """Learn from one settled token: its beta if it was skipped, 0 if it was uploaded."""
        if not 0.0 <= judged.beta <= 1.0:  # NaN too
            return
        self.tokens += 1
        self.loss += judged.beta
        self.threshold = self._clamped(self.threshold + self.rate * (self.target - judged.beta))

    def save(self) -> None:
        """Keep the threshold for the next run. A disk that fails is no reason to stop."""
        if self._state is None:
            return
        plain = {
            "v": 1, "pair": self._pair, "target": self.target, "threshold": self.threshold,
            "tokens": self.tokens, "loss": self.loss,
        }  # fmt: skip
        try:
            write_whole(self._state, json.dumps(plain, indent=1).encode())
        except (OSError, ResourceError) as error:
            _log.warning("the adaptive threshold is not kept (%s)", error)

    def _clamped(self, value: float) -> float:
        """Within reach: above 1 nothing is uploaded, and to climb on would only delay the way back.

        Below 0 nothing is skipped, so nothing pushes further but the verdicts that are still to
        come for tokens skipped before: at most an audit's worth. To cut these off would forgive
        them; only what no run can reach is cut.
        """
        lowest = -self.rate * (2 * (self.audit_after or 0) + 1) - 1.0
        return min(1.0, max(lowest, value))

    def _resume(self, path: Path) -> None:
        """Take up what an earlier run left. What is damaged or of another pair is passed over."""
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            if plain["v"] != 1 or plain["pair"] != self._pair or plain["target"] != self.target:
                return
            threshold, loss, tokens = plain["threshold"], plain["loss"], plain["tokens"]
            if not math.isfinite(threshold + loss) or tokens != int(tokens):
                raise ValueError("not finite")
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s: passed over (%s)", path, type(error).__name__)
            return
        self.threshold = self._clamped(float(threshold))
        self.loss, self.tokens = float(loss), int(tokens)


class Learning(Adaptive):
    """The default policy of `uhlm`: learns from the betas that ride along with uploads.

    Nothing is kept from run to run: the same seed gives the same text.

    Args:
        start: the threshold to begin with, from calibration, and the highest it will have.
        target: the risk per generated token that is aimed at.
        rate: how far one token moves the threshold.
        ask_by: what the threshold is of.
    """

    audit_after = None

    def __init__(
        self, start: float, target: float = 0.001, rate: float = 0.05, ask_by: AskBy = "uncertainty"
    ) -> None:
        self._highest = start
        super().__init__(start, target, rate, ask_by=ask_by)

    def _clamped(self, value: float) -> float:
        """Above the start there would be fewer uploads than calibrated, and nothing to learn from.

        Below 0 everything is uploaded: one step below is enough.
        """
        return min(self._highest, max(-self.rate, value))
