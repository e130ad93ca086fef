"""The reward head: how likely the LLM is to accept a draft, from what the device already has.

A small perceptron, trained by calibration to predict min(1, p(d)/q(d)) and run by onnxruntime.
Reward-based token modelling is arXiv 2409.13757; how that paper learns its reward is not known,
so features and training are this project's own. Nothing here needs a second forward pass:

- `features` reads one draft and its row of logits, whose sums the uncertainty has taken already;
- `History` adds the features of the drafts before it, by position, so that a rollback only
  means that positions are written again.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.errors import ModelError
from ...lm.row import Row

Floats = NDArray[np.float32]

FORMAT = "uhlm-features/1"
"""Name of what the head reads; a head made for other features is refused."""

_TOP = 8  # largest log-probabilities that are features
_FLOOR = -20.0  # nats: what lies lower is as good as impossible
_NEAR = (6.0, 12.0, 24.0)  # nats below the peak in which the largest logits are looked for

FEATURES = (
    "uncertainty", "log_q", "log_q_cold", "log_q_hot", "entropy", "log_sum_squares", "log_rank",
    *(f"log_top_{i}" for i in range(_TOP)),
)  # fmt: skip
"""What is measured of one draft: u, log softmax(z)[d], the same at the temperatures 1/2 and 2, the
entropy, log sum softmax^2, log(1 + ids more likely than d), and the largest log-probabilities."""

_KEPT = (0, 1, 4, 5, 6)  # features whose past is told: u, log_q, entropy, log_sum_squares, log_rank
_LAGS = 3
_DECAY = 0.8  # of the running mean over all drafts before

N_FEATURES = len(FEATURES) + (_LAGS + 1) * len(_KEPT) + 2
"""Width of what the head reads: features, their past, the mean of it, and the position twice."""


def features(row: Row, draft: int, u: float) -> Floats:
    """What the head reads of one draft alone, shape (len(FEATURES),), float32.

    Args:
        row: raw logits of the device model.
        draft: the drafted id.
        u: its uncertainty.
    """
    near, _ = row.head
    y = row.logits[near] - np.float32(row.peak)
    hot = np.exp(0.5 * y)  # softmax at temperature 2, up to its sum
    plain = hot * hot
    sum_hot = float(hot.sum()) + row.tail_sum(2)
    sum_plain = float(plain.sum()) + row.tail_sum(4)
    sum_cold = float(plain.dot(plain)) + row.tail_sum(8)
    log_sum = math.log(sum_plain)
    at = float(row.logits[draft]) - row.peak
    found = np.empty(len(FEATURES), dtype=np.float32)
    found[:7] = (
        u,
        max(_FLOOR, at - log_sum),
        max(2 * _FLOOR, 2.0 * at - math.log(sum_cold)),
        max(_FLOOR, 0.5 * at - math.log(sum_hot)),
        log_sum - (float(plain.dot(y)) + _tail_depth(row)) / sum_plain,
        math.log(sum_cold) - 2.0 * log_sum,
        math.log1p(_more_likely(row, draft)),
    )
    found[7:] = np.maximum(_largest(row) - np.float32(log_sum), np.float32(_FLOOR))
    return found


def _tail_depth(row: Row) -> float:
    """The sum of y exp(y) over the tail."""
    y = row.logits - np.float32(row.peak)
    np.maximum(y, np.float32(-80.0), out=y)  # an id that is masked adds nothing
    return float(row.exps(4).reshape(-1)[: len(row)].dot(y))


def _more_likely(row: Row, draft: int) -> int:
    """How many ids are more likely than the draft."""
    return 0 if draft == row.best else int(np.count_nonzero(row.logits > row.logits[draft]))


def _largest(row: Row) -> Floats:
    """The `_TOP` largest of y <= 0, descending; what is missing is the floor. Shape (_TOP,)."""
    for width in _NEAR:
        near = row.near(width)
        if len(near) >= _TOP:
            break
    y = row.logits[near] - np.float32(row.peak)
    if len(y) > _TOP:
        y = np.partition(y, len(y) - _TOP)[len(y) - _TOP :]
    top = np.full(_TOP, _FLOOR, dtype=np.float32)
    top[: len(y)] = np.sort(y)[::-1]
    return top


class History:
    """The features of one reply by position, and what the head reads at each."""

    def __init__(self) -> None:
        self._past: Floats = np.zeros((64 + _LAGS, len(_KEPT)), dtype=np.float32)
        self._means: Floats = np.zeros((65, len(_KEPT)), dtype=np.float32)

    def reset(self) -> None:
        """Begin a reply."""
        self._past[:] = 0.0
        self._means[:] = 0.0

    def write(self, index: int, of_draft: Floats, out: Floats) -> None:
        """Write the features of the draft at `index` to `out`, shape (N_FEATURES,).

        Positions come in order; an earlier one may come again after a rollback.
        """
        while index + 1 >= len(self._means):
            self._past = np.concatenate([self._past, np.zeros_like(self._past)])
            self._means = np.concatenate([self._means, np.zeros_like(self._means)])
        past, n = self._past, len(FEATURES)
        out[:n] = of_draft
        width = _LAGS * len(_KEPT)
        out[n : n + width] = past[index : index + _LAGS].reshape(-1)
        out[n + width : n + width + len(_KEPT)] = self._means[index]
        out[-2] = math.log1p(index)
        out[-1] = min(index, 64) / 64.0
        now = of_draft.take(_KEPT)
        past[index + _LAGS] = now
        self._means[index + 1] = _DECAY * self._means[index] + (1.0 - _DECAY) * now


class RewardHead:
    """A trained head. One reply at a time.

    Args:
        path: an ONNX file made by calibration.

    Raises:
        ModelError: it is no such file, or made for other features.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime as ort  # takes 0.1 s, and most strategies never need it

        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            content = path.read_bytes()
            session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except OSError as error:
            raise ModelError(f"{path}: {error.strerror}; calibrate again") from None
        except Exception as error:  # onnxruntime has a class of its own for each way to fail
            raise ModelError(f"{path}: no reward head ({type(error).__name__})") from None
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        (inputs, outputs) = (session.get_inputs(), session.get_outputs())
        if (
            self.metadata.get("features") != FORMAT
            or [i.shape for i in inputs] != [[1, N_FEATURES]]
            or [o.shape for o in outputs] != [[1, 1]]
        ):
            raise ModelError(f"{path}: made for other features than {FORMAT}; calibrate again")
        self._features = np.zeros((1, N_FEATURES), dtype=np.float32)
        self._reward = np.zeros((1, 1), dtype=np.float32)
        self._history = History()
        self._session = session
        self._binding: Any = session.io_binding()
        self._input = ort.OrtValue.ortvalue_from_numpy(self._features)
        self._output = ort.OrtValue.ortvalue_from_numpy(self._reward)
        self._binding.bind_ortvalue_input(inputs[0].name, self._input)
        self._binding.bind_ortvalue_output(outputs[0].name, self._output)

    def reset(self) -> None:
        """Begin a reply: what was before is no history of it."""
        self._history.reset()

    def score(self, index: int, row: Row, draft: int, u: float) -> float:
        """The acceptance probability that the head expects, in (0, 1).

        Args:
            index: position of the draft in the reply.
            row: raw logits that it was drawn from.
            draft: its id.
            u: its uncertainty, by the estimator that the head was trained with.
        """
        self._history.write(index, features(row, draft, u), self._features[0])
        return self._run()

    def run(self, features: Floats) -> float:
        """The same for features that are there already, shape (N_FEATURES,)."""
        self._features[0] = features
        return self._run()

    def _run(self) -> float:
        self._session.run_with_iobinding(self._binding)
        return float(self._output.numpy()[0, 0])
