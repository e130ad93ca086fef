"""What was measured of a pair of models beforehand: the linear law, thresholds, the reward head.

`uhlm-edge calibrate` writes such a file; the device reads it, finds the one of its pair, and
refuses one of another pair.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...common.errors import ConfigError, DataError
from ...common.files import read_bounded
from ...configs.config import AskBy
from ...lm.sampling import Sampler
from ...lm.vocabulary import Fingerprint

_log = logging.getLogger("uhlm_edge.calibration")
_log.addHandler(logging.NullHandler())

EstimatorName = Literal["sampled", "expected"]
SHIPPED = Path(__file__).resolve().parents[2] / "models" / "calibrations"
"""Where the calibrations of the shipped pair lie."""

MAX_BYTES = 4_000_000
_MAX_HEAD = 64_000_000
_CHUNK = 1 << 16
_CHUNKS = 64


class Frozen(BaseModel):
    """A part of a calibration file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelKey(Frozen):
    """Which model it is: name, vocabulary, and the digest of its file where the file is at hand."""

    name: str
    vocabulary: Fingerprint
    digest: str | None = None

    def fits(self, other: ModelKey) -> bool:
        """Are these the same model, as far as both are known?"""
        if self.vocabulary != other.vocabulary:
            return False
        if self.digest is not None and other.digest is not None:
            return self.digest == other.digest
        return self.name == other.name


class Level(Frozen):
    """Tokens of one uncertainty: the share that has it, and their mean rejection probability."""

    u: float
    share: float
    beta: float


class GridRow(Frozen):
    """One threshold: upload rate and risk as predicted and as measured.

    Attributes:
        threshold: of u; higher ones are uploaded.
        rate_predicted, risk_predicted: from the law and the distribution of u of one half of the
            conversations, for the other half; mean over both ways.
        rate_measured, risk_measured: of those other halves. Risk is per generated token.
        risk_bound: f_max (a u + b)^2 / (2 a) (arXiv 2412.12687); expected u only.
    """

    threshold: float
    rate_predicted: float
    rate_measured: float
    risk_predicted: float
    risk_measured: float
    risk_bound: float | None = None


class Law(Frozen):
    """beta = a u + b for one estimator of u, and what follows from it.

    Attributes:
        a, b: by least squares over tokens.
        a_error, b_error: standard errors, robust to tokens of one conversation being alike.
        r: correlation of u and beta.
        averse: -b / a; negative means that everything is uploaded. None: no threshold.
        prone: (Delta - b) / a. None: no threshold.
        risk: the largest threshold whose measured risk is at most `Calibration.target_risk`.
        levels: distribution of u; bins of 1/40 for expected u.
        grid: thresholds with predictions.
        advice: why a fixed threshold should not be trusted; None if it may be.
    """

    a: float
    a_error: float
    b: float
    b_error: float
    r: float
    averse: float | None
    prone: float | None
    risk: float | None
    levels: tuple[Level, ...]
    grid: tuple[GridRow, ...]
    advice: str | None = None


class Quality(Frozen):
    """How well a score tells rejected from accepted drafts, on conversations held out.

    Attributes:
        auroc: P(score of a rejected draft > score of an accepted one).
        calibration_error: mean distance of the score, as a probability, from beta.
        uploads: share of tokens to upload for the risk to be at most the target.
    """

    auroc: float
    calibration_error: float
    uploads: float | None = None


class HeadFile(Frozen):
    """The reward head that belongs to a calibration.

    Attributes:
        file: its name, in the folder of the calibration.
        sha256: of its content.
        estimator: of the u that it reads.
        held_out: tokens that `quality` was measured on.
        quality: of the head and of what it competes with.
        risk: the highest expected rejection that may be skipped for the held-out risk to be at most
            `Calibration.target_risk`; None: no such threshold, or not measured.
    """

    file: str = Field(pattern=r"^[\w.-]+\.onnx$")
    sha256: str
    estimator: EstimatorName
    held_out: int
    quality: dict[str, Quality]
    risk: float | None = None


class Calibration(Frozen):
    """One calibration file.

    Attributes:
        name: what `--calibration` calls it; the file's name without its ending.
        made: date, ISO 8601.
        device, cloud: the pair.
        sampler, wire_top, k, seed, max_tokens, replies: how the shadow run was made.
        prompts: name of the prompt file; `prompts_digest` is the SHA-256 of its content.
        conversations, tokens: how much was measured.
        delta, delta_rounded: P(p(d) < q(d)) with the full q, and with q as it is sent.
        certain: share of tokens whose rounded q(d) is 1.
        mean_beta, mean_beta_rounded: rejection probability; the first is the oracle's upload rate.
        target_risk: of the `risk` thresholds, per generated token.
        laws: by estimator.
        head: the reward head, if one was trained.
    """

    v: Literal[1] = 1
    name: str
    made: str
    device: ModelKey
    cloud: ModelKey
    sampler: Sampler
    wire_top: int
    k: int
    seed: int
    max_tokens: int
    replies: int
    prompts: str
    prompts_digest: str
    conversations: int
    tokens: int
    delta: float
    delta_rounded: float
    certain: float
    mean_beta: float
    mean_beta_rounded: float
    target_risk: float
    laws: dict[EstimatorName, Law]
    head: HeadFile | None = None

    def threshold(
        self, choice: str, estimator: EstimatorName = "sampled", ask_by: AskBy = "uncertainty"
    ) -> float:
        """The threshold that `choice` stands for: averse, prone, risk, or a number.

        Args:
            choice: the head knows no law of u, so it has only `risk`.
            estimator: of u.
            ask_by: what the threshold is of.

        Raises:
            ConfigError: it is neither, or there is no such threshold.
        """
        if choice not in ("averse", "prone", "risk"):
            return parse_threshold(choice)
        if ask_by == "head":
            return self._head_threshold(choice)
        law = self.laws.get(estimator)
        if law is None:
            raise ConfigError(f"calibration {self.name} holds nothing about {estimator} u")
        value: float | None = getattr(law, choice)
        if value is None:
            raise ConfigError(
                f"calibration {self.name} gives no {choice} threshold: {law.advice}; "
                "use --threshold adaptive, or a number"
            )
        return value

    def start(self, estimator: EstimatorName, ask_by: AskBy) -> float:
        """Where the adaptive threshold begins."""
        if ask_by == "uncertainty":
            return self.laws[estimator].risk or 0.0
        return (self.head.risk if self.head is not None else None) or 0.0

    def _head_threshold(self, choice: str) -> float:
        if choice != "risk":
            raise ConfigError(f"threshold {choice} is one of u: the head has risk, or a number")
        if self.head is None or self.head.risk is None:
            raise ConfigError(
                f"calibration {self.name} gives no threshold of a head: calibrate again, "
                "or give a number"
            )
        return self.head.risk

    def head_path(self, folder: Path) -> Path:
        """Where the reward head lies, its content compared with the calibration.

        Raises:
            ConfigError: none was trained.
            DataError: it is missing or not the one that was measured.
        """
        if self.head is None:
            raise ConfigError(
                f"calibration {self.name} has no reward head; install 'uhlm-edge[quantize]' and "
                "calibrate again"
            )
        path = folder / self.head.file
        try:
            content = read_bounded(path, _MAX_HEAD)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}; calibrate again") from None
        if hashlib.sha256(content).hexdigest() != self.head.sha256:
            raise DataError(f"{path}: not the head that {self.name} was measured with")
        return path


def parse_threshold(text: str) -> float:
    """A threshold given as a number.

    Raises:
        ConfigError: it is none, or is not finite.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"threshold {text!r}: use averse, prone, risk or a number from 0 to 1")
    return value


def load(path: Path) -> Calibration:
    """Read one calibration file.

    Raises:
        DataError: it is missing, too large, or no calibration.
    """
    try:
        return Calibration.model_validate_json(read_bounded(path, MAX_BYTES))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise DataError(f"{path}: no calibration ({where}: {first['msg']})") from None


def require_pair(calibration: Calibration, device: ModelKey, cloud: ModelKey | None) -> None:
    """Refuse a calibration of another pair. With no `cloud`, only the device's model counts.

    Raises:
        DataError: the message names both pairs.
    """
    if calibration.device.fits(device) and (cloud is None or calibration.cloud.fits(cloud)):
        return
    made_for = f"{calibration.device.name} with {calibration.cloud.name}"
    wanted = f"{device.name} with {cloud.name if cloud else 'whatever verifier'}"
    if made_for == wanted:
        wanted += " as they are here (the files differ)"
    raise DataError(
        f"calibration {calibration.name} is of {made_for}, not of {wanted}; "
        "run `uhlm-edge calibrate` for this pair"
    )


def find(
    folders: Sequence[Path],
    device: ModelKey,
    cloud: ModelKey | None,
    name: str | None = None,
    sampler: Sampler | None = None,
) -> tuple[Calibration, Path] | None:
    """The calibration of a pair and the folder it lies in; None if there is none.

    Args:
        folders: searched in this order; those that do not exist are passed over.
        device: the model on the device.
        cloud: the model in the cloud, None if it is not known.
        name: take this one (a name, or the path of a file), and no other.
        sampler: of several, one made with this sampler goes first, then one whose thresholds can
            be trusted, then the newest.

    Raises:
        ConfigError: there is no calibration of that name.
        DataError: the one of that name is damaged or of another pair.
    """
    if name is not None:
        path = named(folders, name)
        calibration = load(path)
        require_pair(calibration, device, cloud)
        return calibration, path.parent
    best: tuple[tuple[bool, bool, str], Calibration, Path] | None = None
    for path in files(folders):
        try:
            calibration = load(path)
            require_pair(calibration, device, cloud)
        except DataError as error:
            _log.info("passed over: %s", error)
            continue
        usable = all(law.advice is None for law in calibration.laws.values())
        rank = (calibration.sampler == sampler, usable, calibration.made)
        if best is None or rank > best[0]:
            best = rank, calibration, path.parent
    return None if best is None else best[1:]


def files(folders: Sequence[Path], ending: str = ".json") -> list[Path]:
    """All whose name is one word and that ending, folder by folder."""
    every = (path for folder in folders for path in sorted(folder.glob(f"*{ending}")))
    return [path for path in every if "." not in path.name.removesuffix(ending)]


def named(
    folders: Sequence[Path], name: str, ending: str = ".json", what: str = "calibration"
) -> Path:
    """The file of that name, or the path that it is.

    Raises:
        ConfigError: there is none; the message lists those that there are.
    """
    if name.endswith(".json"):
        return Path(name)
    known = files(folders, ending)
    if found := next((path for path in known if path.name == name + ending), None):
        return found
    names = ", ".join(path.name.removesuffix(ending) for path in known) or "none yet"
    raise ConfigError(f"no {what} is called {name!r}; there are: {names}")


def model_digest(path: Path) -> str:
    """A digest of a model file that is quick for files of any size.

    Over its length and 64 blocks of 64 KiB, the first at the beginning (where a GGUF file has its
    header), the last at the end: it tells models and quantisations apart, and is no protection
    against somebody who forges one.

    Raises:
        DataError: the file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            for i in range(_CHUNKS):
                file.seek(max(0, size - _CHUNK) * i // (_CHUNKS - 1))
                digest.update(file.read(_CHUNK))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    return digest.hexdigest()
