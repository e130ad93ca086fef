"""The two pictures of a calibration: rejection against uncertainty, risk against upload rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..common import plots
from ..edge.policy.calibration import EstimatorName
from .head import features
from .run import Result
from .scores import risk_curve

_RARE = 0.05  # of rejection: below it the rates are drawn on a logarithmic scale
_MOST_RATE = 0.999  # of the rates that are drawn; all curves meet at 1


def draw(result: Result, out: Path, estimator: EstimatorName = "sampled") -> list[Path]:
    """Draw both beside `out`: NAME.rejection.png over all tokens, NAME.risk.png held out.

    Raises:
        ResourceError: matplotlib is not installed.
    """
    law = result.calibration.laws[estimator]
    u = np.concatenate([getattr(replay, estimator) for replay in result.replays])
    beta = np.concatenate([replay.beta for replay in result.replays])
    chosen = {"averse": law.averse, "prone": law.prone, "risk": law.risk}
    rejection = plots.rejection_against_uncertainty(
        u.tolist(), beta.tolist(), out.with_suffix(".rejection.png"), line=(law.a, law.b),
        thresholds={name: value for name, value in chosen.items() if value is not None},
    )  # fmt: skip
    return [rejection, _draw_risk(result, out.with_suffix(".risk.png"))]


def _draw_risk(result: Result, path: Path) -> Path:
    """Risk that each upload rate leaves, by what decides; on conversations held out."""
    beta = np.concatenate([replay.beta for replay in result.held_out])
    scores = {
        "u sampled": np.concatenate([replay.sampled for replay in result.held_out]),
        "u expected": np.concatenate([replay.expected for replay in result.held_out]),
    }
    if result.head is not None:
        about = result.calibration.head
        expected = about is not None and about.estimator == "expected"
        table = np.concatenate([features(replay, expected) for replay in result.held_out])
        scores["reward head"] = 1.0 - result.head.predict(table)
    styles = {
        "u sampled": (plots.BLUE, "-"),
        "u expected": (plots.SKY, "-."),
        "reward head": (plots.RED, "-"),
        "random": (plots.PURPLE, "--"),
        "oracle": (plots.BLACK, ":"),
    }
    floor = float(beta.mean()) * 1e-3
    with plots.figure(path, 7.0, 4.0) as ax:
        for name, score in scores.items():
            rate, risk = risk_curve(score, beta)
            colour, line = styles[name]
            mark = {"marker": "o", "markersize": 3} if name == "u sampled" else {}
            ax.plot(100 * rate, risk, line, color=colour, label=name, linewidth=1.6, **mark)
        rate = np.concatenate([[0.0], np.geomspace(1e-4, _MOST_RATE, 400)])
        colour, line = styles["random"]
        mean = float(beta.mean())
        ax.plot(100 * rate, mean * (1 - rate), line, color=colour, label="random", linewidth=1.6)
        rate, risk = risk_curve(beta, beta)
        colour, line = styles["oracle"]
        ax.plot(100 * rate, risk, line, color=colour, label="oracle", linewidth=1.8)
        target = result.calibration.target_risk
        ax.axhline(target, color=plots.GREY, linewidth=1, label=f"target risk {target:g}")
        ax.set(xlabel="tokens uploaded (%)", ylabel="risk per generated token")
        ax.set(yscale="log", ylim=(floor, mean * 1.3))
        if mean < _RARE:  # all that matters happens at small rates
            ax.set(xscale="log", xlim=(10 * mean, 100))
            plots.plain_log_ticks(ax)
        else:
            ax.set_xlim(-1, 101)
        plots.legend_beside(ax)
    return path
