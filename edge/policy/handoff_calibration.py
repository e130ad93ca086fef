"""When strategy `handoff` hands a reply over: what `uhlm-edge calibrate --handoff` measured.

The cloud is any endpoint, with a vocabulary that nobody knows: so this is no part of a pair's
calibration, and lies beside it, as NAME.handoff.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from ...common.errors import DataError
from ...common.files import read_bounded
from ...configs.config import AskBy
from ...lm.sampling import Sampler
from .calibration import MAX_BYTES, EstimatorName, Frozen, ModelKey, files, named

HANDOFF = ".handoff.json"
"""How the name of such a file ends."""


class Point(Frozen):
    """What a threshold gives: replies whose risk exceeds it are handed over."""

    threshold: float
    share: float
    accuracy: float


class HandoffCalibration(Frozen):
    """One such file.

    Attributes:
        name: what `--calibration` calls it; the file's name without its ending.
        made: date, ISO 8601.
        device: the model on the device.
        endpoint: name of the model that replies were handed to.
        sampler, estimator, by, samples, window, seed, max_tokens: how the replies were made, and
            what the threshold is of (`Handoff.by`).
        prompts: name of the file of rows; `prompts_digest` is the SHA-256 of its content.
        rows: how many the threshold was chosen on, and how many were held out, by conversation.
        loss: accuracy that may be lost for fewer replies handed over.
        chosen: the threshold, with share and accuracy of the rows that it was chosen on.
        held_out: what that threshold gave on the others.
        device_alone, endpoint_alone: accuracy on the rows held out.
        curve: every threshold that makes a difference, on the rows it was chosen on.
    """

    v: Literal[1] = 1
    name: str
    made: str
    device: ModelKey
    endpoint: str
    sampler: Sampler
    estimator: EstimatorName
    by: AskBy = "uncertainty"
    samples: int
    window: int
    seed: int
    max_tokens: int
    prompts: str
    prompts_digest: str
    rows: tuple[int, int]
    loss: float
    chosen: Point
    held_out: Point
    device_alone: float
    endpoint_alone: float
    curve: tuple[Point, ...]


def load_handoff(path: Path) -> HandoffCalibration:
    """Read one file.

    Raises:
        DataError: it is missing, too large, or no calibration of `handoff`.
    """
    try:
        return HandoffCalibration.model_validate_json(read_bounded(path, MAX_BYTES))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except ValidationError:
        raise DataError(
            f"{path}: no calibration of handoff; make one with `uhlm-edge calibrate --handoff`"
        ) from None


def find_handoff(
    folders: Sequence[Path],
    device: ModelKey,
    window: int,
    estimator: EstimatorName,
    by: AskBy = "uncertainty",
    endpoint: str | None = None,
    sampler: Sampler | None = None,
    name: str | None = None,
) -> HandoffCalibration | None:
    """The calibration for this device model, window and estimator; None if there is none.

    Args:
        folders: searched in this order; those that do not exist are passed over.
        device: the model on the device.
        window: tokens that are drafted unseen: u is a mean over them.
        estimator: of u.
        by: what the threshold is of.
        endpoint: of several, one made with this endpoint's model goes first,
        sampler: then one made with this sampler, then the newest.
        name: take this one (a name, or the path of a file), and no other.

    Raises:
        ConfigError: there is none of that name.
        DataError: the one of that name is damaged, or was made for something else.
    """
    if name is not None:
        made = load_handoff(named(folders, name, HANDOFF, "calibration of handoff"))
        if (why := _unfit(made, device, window, estimator, by)) is not None:
            raise DataError(f"calibration {made.name} is of {why}")
        return made
    best: tuple[tuple[bool, bool, str], HandoffCalibration] | None = None
    for path in files(folders, HANDOFF):
        try:
            made = load_handoff(path)
        except DataError:
            continue
        rank = (made.endpoint == endpoint, made.sampler == sampler, made.made)
        if _unfit(made, device, window, estimator, by) is None and (not best or rank > best[0]):
            best = rank, made
    return None if best is None else best[1]


def _unfit(
    made: HandoffCalibration, device: ModelKey, window: int, estimator: EstimatorName, by: str
) -> str | None:
    """Why it says nothing about these; None if it fits."""
    if not made.device.fits(device):
        return f"{made.device.name}, not of {device.name}"
    if made.window != window:
        return f"a window of {made.window} tokens, not of {window}: give --window {made.window}"
    if made.by != by:
        return f"{made.by}, not of {by}: give --ask-by {made.by}"
    if made.estimator != estimator:
        return f"{made.estimator} u, not of {estimator}: give --estimator {made.estimator}"
    return None
