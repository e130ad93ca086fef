"""Train the reward head on shadow runs, in numpy, and write it as ONNX.

Two layers of 64 units, cross-entropy against the acceptance probability min(1, p/q), Adam with
decoupled weight decay. A tenth of the conversations is held back to tell when to stop; what is
reported is measured on conversations that training never saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..common.errors import ResourceError
from ..common.files import write_whole
from ..edge.policy.reward import FEATURES, FORMAT, N_FEATURES, History
from .shadow import Replay

Matrix = NDArray[np.float32]
_UNITS = 64


def features(replay: Replay, expected: bool = False) -> Matrix:
    """What the head reads at each position of a reply, shape (T, N_FEATURES).

    Args:
        replay: a reply of the shadow run.
        expected: with expected u instead of the sampled one.
    """
    table = np.empty((len(replay.ids), N_FEATURES), dtype=np.float32)
    marks = replay.marks.copy()
    marks[:, FEATURES.index("uncertainty")] = replay.expected if expected else replay.sampled
    history = History()
    for i, row in enumerate(marks):
        history.write(i, row, table[i])
    return table


@dataclass(frozen=True)
class Head:
    """A trained perceptron: x -> sigmoid(W3 relu(W2 relu(W1 (x - mean)/spread + b1) + b2) + b3)."""

    mean: Matrix
    spread: Matrix
    layers: list[tuple[Matrix, Matrix]]  # (inputs, outputs), (outputs,)

    def predict(self, x: Matrix) -> NDArray[np.float64]:
        """Acceptance probabilities, shape (T,), of features of shape (T, N_FEATURES)."""
        logit = _forward(self.layers, (x - self.mean) / self.spread)[-1][:, 0]
        return np.asarray(_sigmoid(logit), dtype=np.float64)


def train(
    replays: Sequence[Replay],
    expected: bool = False,
    seed: int = 0,
    epochs: int = 60,
    batch: int = 512,
    rate: float = 1e-3,
    decay: float = 1.0,
    patience: int = 8,
) -> Head:
    """Train a head; the best epoch on the conversations held back is returned."""
    rng = np.random.default_rng(seed)
    numbers = np.array([replay.conversation for replay in replays])
    back = set(rng.permutation(np.unique(numbers))[: max(1, len(np.unique(numbers)) // 10)])
    x = [features(replay, expected) for replay in replays]
    y = [1.0 - replay.beta for replay in replays]
    held = np.repeat([n in back for n in numbers], [len(part) for part in y])
    every, target = np.concatenate(x), np.concatenate(y).astype(np.float32)
    mean = every[~held].mean(axis=0)
    spread = every[~held].std(axis=0) + np.float32(1e-3)
    every = (every - mean) / spread
    layers = _initial(rng)
    flat = [array for layer in layers for array in layer]
    first, second = [np.zeros_like(a) for a in flat], [np.zeros_like(a) for a in flat]
    best, best_loss, waited, step = layers, np.inf, 0, 0
    inside = np.flatnonzero(~held)
    for epoch in range(epochs):
        rng.shuffle(inside)
        pace = rate * 0.5 * (1.0 + np.cos(np.pi * epoch / epochs))
        for at in range(0, len(inside), batch):
            chosen = inside[at : at + batch]
            step += 1
            for i, slope in enumerate(_slopes(layers, every[chosen], target[chosen])):
                first[i] += 0.1 * (slope - first[i])
                second[i] += 0.001 * (slope * slope - second[i])
                move = first[i] / (1 - 0.9**step)
                move /= np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8
                if flat[i].ndim == 2:
                    move += decay * flat[i]
                flat[i] -= np.float32(pace) * move
        loss = _loss(layers, every[held], target[held])
        if loss < best_loss:
            best, best_loss, waited = [(w.copy(), b.copy()) for w, b in layers], loss, 0
        elif (waited := waited + 1) > patience:
            break
    return Head(mean, spread, best)


def export(head: Head, path: Path, metadata: Mapping[str, str]) -> Path:
    """Write the head as ONNX, the standardisation folded into its first layer.

    Raises:
        ResourceError: onnx is not installed.
    """
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise ResourceError("onnx is not installed: pip install 'uhlm-edge[quantize]'") from None
    (weight, bias), *rest = head.layers
    folded = (weight / head.spread[:, None]).astype(np.float32)
    layers = [(folded, bias - (head.mean @ folded)), *rest]
    nodes, weights, name = [], [], "features"
    for i, (w, b) in enumerate(layers):
        weights += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(b, f"b{i}")]
        nodes.append(helper.make_node("Gemm", [name, f"w{i}", f"b{i}"], [f"gemm{i}"]))
        last = i + 1 == len(layers)
        name = "reward" if last else f"hidden{i}"
        nodes.append(helper.make_node("Sigmoid" if last else "Relu", [f"gemm{i}"], [name]))
    graph = helper.make_graph(
        nodes,
        "reward head",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, N_FEATURES])],
        [helper.make_tensor_value_info("reward", TensorProto.FLOAT, [1, 1])],
        weights,
    )
    # Old enough for every onnxruntime that is supported.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {"features": FORMAT, **metadata})
    write_whole(path, model.SerializeToString())
    return path


def _initial(rng: np.random.Generator) -> list[tuple[Matrix, Matrix]]:
    sizes = [N_FEATURES, _UNITS, _UNITS, 1]
    return [
        (
            (rng.standard_normal((n, m)) * np.sqrt(2.0 / n)).astype(np.float32),
            np.zeros(m, dtype=np.float32),
        )
        for n, m in pairwise(sizes)
    ]


def _forward(layers: Sequence[tuple[Matrix, Matrix]], x: Matrix) -> list[Matrix]:
    """What each layer gives, the input first; the last one has no ReLU."""
    values = [x]
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        values.append(x if i + 1 == len(layers) else np.maximum(x, 0.0))
        x = values[-1]
    return values


def _slopes(layers: Sequence[tuple[Matrix, Matrix]], x: Matrix, y: Matrix) -> list[Matrix]:
    """Gradient of the mean cross-entropy by weight and bias of each layer."""
    values = _forward(layers, x)
    error = ((_sigmoid(values[-1][:, 0]) - y) / np.float32(len(y)))[:, None]
    slopes: list[Matrix] = []
    for (weight, _), value in zip(layers[::-1], values[-2::-1], strict=True):
        slopes = [value.T @ error, error.sum(axis=0), *slopes]
        error = (error @ weight.T) * (value > 0)
    return slopes


def _loss(layers: Sequence[tuple[Matrix, Matrix]], x: Matrix, y: Matrix) -> float:
    logit = _forward(layers, x)[-1][:, 0]
    return float(np.mean(np.logaddexp(0.0, logit) - y * logit))


def _sigmoid(x: Matrix) -> Matrix:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -30.0, 30.0))), dtype=np.float32)
