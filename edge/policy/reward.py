"""The reward head: how likely the LLM is to accept a draft, from what the device already has.

A small perceptron, trained by calibration to predict min(1, p(d)/q(d)) and run by onnxruntime.
Reward-based token modelling is arXiv 2409.13757; how that paper learns its reward is not known,
so features and training are this project's own. Nothing here needs a second forward pass:

- `measure` makes the *marks* of one draft from its row of logits: one exp over the vocabulary,
  from which the sums at the temperatures 2, 1 and 1/2 follow by products;
- `History` adds the marks of the drafts before it, by position, so that a rollback only means that
  positions are written again.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.errors import ModelError

__all__ = ["FEATURES", "MARKS", "N_FEATURES", "History", "RewardHead", "measure"]

Row = NDArray[np.float32]

FEATURES = "uhlm-features/1"
"""Name of what the head reads; a head made for other features is refused."""

_TOP = 8  # largest log-probabilities that are marks
_FLOOR = -20.0  # nats: what lies lower is as good as impossible
_NEAR = (6.0, 12.0, 24.0)  # nats below the peak in which the largest logits are looked for

MARKS = (
    "uncertainty", "log_q", "log_q_cold", "log_q_hot", "entropy", "log_sum_squares", "log_rank",
    *(f"log_top_{i}" for i in range(_TOP)),
)  # fmt: skip
"""What is measured of one draft: u, log softmax(z)[d], the same at the temperatures 1/2 and 2, the
entropy, log sum softmax^2, log(1 + ids more likely than d), and the largest log-probabilities."""

_KEPT = (0, 1, 4, 5, 6)  # marks whose past is told: u, log_q, entropy, log_sum_squares, log_rank
_LAGS = 3
_DECAY = 0.8  # of the running mean over all drafts before

N_FEATURES = len(MARKS) + (_LAGS + 1) * len(_KEPT) + 2
"""Width of what the head reads: marks, their past, the mean of it, and the position twice."""


def measure(row: Row, draft: int, u: float) -> Row:
    """The marks of one draft, shape (len(MARKS),).

    Args:
        row: raw logits of the device model, shape (V,), float32; -inf masks an id.
        draft: the drafted id.
        u: its uncertainty.
    """
    peak = float(row.max())
    y = row - np.float32(peak)
    np.maximum(y, np.float32(-80.0), out=y)
    hot = np.exp(y * np.float32(0.5))  # softmax at temperature 2, up to its sum
    plain = hot * hot
    sum_hot, sum_plain = float(hot.sum()), float(plain.sum())
    sum_cold = float(plain.dot(plain))
    log_sum = math.log(sum_plain)
    at = float(y[draft])
    marks = np.empty(len(MARKS), dtype=np.float32)
    marks[:7] = (
        u,
        max(_FLOOR, at - log_sum),
        max(2 * _FLOOR, 2.0 * at - math.log(sum_cold)),
        max(_FLOOR, 0.5 * at - math.log(sum_hot)),
        log_sum - float(plain.dot(y)) / sum_plain,
        math.log(sum_cold) - 2.0 * log_sum,
        math.log1p(np.count_nonzero(y > at)),
    )
    marks[7:] = np.maximum(_largest(y) - np.float32(log_sum), np.float32(_FLOOR))
    return marks


def _largest(y: Row) -> Row:
    """The `_TOP` largest of y <= 0, descending; what is missing is the floor. Shape (_TOP,)."""
    near = y[:0]
    for width in _NEAR:
        near = y[y > -width]
        if len(near) >= _TOP:
            break
    if len(near) > _TOP:
        near = np.partition(near, len(near) - _TOP)[len(near) - _TOP :]
    top = np.full(_TOP, _FLOOR, dtype=np.float32)
    top[: len(near)] = np.sort(near)[::-1]
    return top


class History:
    """The marks of one reply by position, and what the head reads at each."""

    def __init__(self) -> None:
        self._past: Row = np.zeros((64 + _LAGS, len(_KEPT)), dtype=np.float32)
        self._means: Row = np.zeros((65, len(_KEPT)), dtype=np.float32)

    def reset(self) -> None:
        """Begin a reply."""
        self._past[:] = 0.0
        self._means[:] = 0.0

    def write(self, index: int, marks: Row, out: Row) -> None:
        """Write the features of the draft at `index` to `out`, shape (N_FEATURES,).

        Positions come in order; an earlier one may come again after a rollback.
        """
        while index + 1 >= len(self._means):
            self._past = np.concatenate([self._past, np.zeros_like(self._past)])
            self._means = np.concatenate([self._means, np.zeros_like(self._means)])
        past, n = self._past, len(MARKS)
        out[:n] = marks
        width = _LAGS * len(_KEPT)
        out[n : n + width] = past[index : index + _LAGS].reshape(-1)
        out[n + width : n + width + len(_KEPT)] = self._means[index]
        out[-2] = math.log1p(index)
        out[-1] = min(index, 64) / 64.0
        now = marks.take(_KEPT)
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
            self.metadata.get("features") != FEATURES
            or [i.shape for i in inputs] != [[1, N_FEATURES]]
            or [o.shape for o in outputs] != [[1, 1]]
        ):
            raise ModelError(f"{path}: made for other features than {FEATURES}; calibrate again")
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
            row: raw logits that it was drawn from, shape (V,), float32.
            draft: its id.
            u: its uncertainty, by the estimator that the head was trained with.
        """
        self._history.write(index, measure(row, draft, u), self._features[0])
        return self._run()

    def run(self, features: Row) -> float:
        """The same for features that are there already, shape (N_FEATURES,)."""
        self._features[0] = features
        return self._run()

    def _run(self) -> float:
        self._session.run_with_iobinding(self._binding)
        return float(self._output.numpy()[0, 0])
