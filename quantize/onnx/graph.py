"""The ONNX graph of a decoder: ids and cached keys and values in, rows of logits out.

Inputs: `ids` int64 (T), `rows` int64 (1), and for each layer i `past.i.key` and `past.i.value`,
float32 (P, kv heads, head). Outputs: `logits` float32 (rows, V) of the last `rows` positions, and
`new.i.key`, `new.i.value`, float32 (T, kv heads, head), to be put behind the past by the caller.
So rolling back is to pass less of the past, and nothing is copied out that is known already.

The weights lie in a file beside the graph; here they are only planned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...common.errors import ModelError
from ..convert.families import Layout
from ..convert.rope import Rope

if TYPE_CHECKING:
    import onnx

DATA_FILE = "model.onnx.data"
OPSET, IR_VERSION = 17, 9
_ALIGN = 4096  # a page: the runtime maps weights that begin on one
_ITEM = {"F32": 4, "F16": 2, "I8": 1}


@dataclass(frozen=True)
class Weight:
    """A tensor of the data file.

    `source` is the GGUF name of the tensor it is made of. `role` is "plain", "transposed"
    (columns, rows: what MatMul wants), or for int8 "scale" and "quantised" (transposed too).
    """

    name: str
    source: str
    role: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes in the data file."""
        return math.prod(self.shape) * _ITEM[self.dtype]


@dataclass
class Graph:
    """Nodes, small constants, and the plan of the weights."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    known: dict[Any, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the data file."""
        return max((w.offset + w.nbytes for w in self.weights), default=0)

    def op(self, kind: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        """Add a node with one output; return the output's name."""
        from onnx import helper

        out = to or f"{kind}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=out, **attributes))
        return out

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A small constant; equal ones are kept once."""
        from onnx import numpy_helper

        array: NDArray[Any] = np.asarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.known:
            self.known[key] = f"constant.{len(self.known)}"
            self.constants.append(numpy_helper.from_array(array, self.known[key]))
        return self.known[key]

    def ints(self, *values: int) -> str:
        """An int64 vector."""
        return self.constant(values, np.int64)

    def weight(self, source: str, role: str, dtype: str, shape: Sequence[int]) -> str:
        """Plan a tensor of the data file; return its name."""
        from onnx import TensorProto

        name = source if role == "plain" else f"{source}.{role}"
        offset = -(-self.nbytes // _ALIGN) * _ALIGN
        weight = Weight(name, source, role, dtype, tuple(shape), offset)
        self.weights.append(weight)
        tensor = TensorProto(
            name=name,
            dims=weight.shape,
            data_type={
                "F32": TensorProto.FLOAT,
                "F16": TensorProto.FLOAT16,
                "I8": TensorProto.INT8,
            }[dtype],
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in (
            ("location", DATA_FILE),
            ("offset", weight.offset),
            ("length", weight.nbytes),
        ):
            tensor.external_data.add(key=key, value=str(value))
        self.constants.append(tensor)
        return name

    def model(self) -> onnx.ModelProto:
        """The graph as an ONNX model."""
        from onnx import helper

        graph = helper.make_graph(
            self.nodes, "decoder", self.inputs, self.outputs, initializer=self.constants
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="uhlm-edge",
        )


def build(layout: Layout, shapes: dict[str, tuple[int, ...]], int8: bool = False) -> Graph:
    """The graph of a model.

    Args:
        layout: family and numbers of the model.
        shapes: GGUF names and shapes (rows, columns) of its tensors.
        int8: matrices as int8 with a scale for each output, activations quantised as they come;
            the embedding as float16.

    Raises:
        ModelError: a kind of positions that the graph does not compute.
    """
    return _Builder(layout, shapes, int8).build()


class _Builder:
    def __init__(self, layout: Layout, shapes: dict[str, tuple[int, ...]], int8: bool) -> None:
        self.layout, self.shapes, self.int8 = layout, shapes, int8
        self.g = Graph()
        self.quantised: set[str] = set()
        self.gemma = layout.family.arch == "gemma3"
        settings = layout.metadata()
        self.window = int(settings.get("attention.sliding_window") or 0)
        self.local = list(
            settings.get("attention.sliding_window_pattern") or [False] * layout.layers
        )
        self.cap = settings.get("final_logit_softcapping")
        self.group = layout.heads // layout.kv_heads

    def build(self) -> Graph:
        g, layout = self.g, self.layout
        self._inputs()
        self._shapes_of_the_pass()
        vocabulary, width = self.shapes["token_embd.weight"]
        dtype = "F16" if self.int8 else "F32"
        table = g.weight("token_embd.weight", "plain", dtype, (vocabulary, width))
        x = g.op("Gather", table, "ids", axis=0)
        if self.int8:
            x = self._to_float(x)
        if self.gemma:
            x = g.op("Mul", x, g.constant(math.sqrt(width)))
        for layer in range(layout.layers):
            x = self._layer(layer, x)
        start = g.op("Sub", self.new, "rows")
        x = g.op("Slice", x, start, self.new, g.ints(0))
        x = self._norm(x, "output_norm.weight")
        head = "token_embd.weight" if layout.tied else "output.weight"
        logits = self._matmul(x, head)
        if self.cap is not None:
            cap = g.constant(float(self.cap))
            logits = g.op("Mul", g.op("Tanh", g.op("Div", logits, cap)), cap)
        g.op("Identity", logits, to="logits")
        return g

    def _inputs(self) -> None:
        from onnx import TensorProto, helper

        g, cache = self.g, [self.layout.kv_heads, self.layout.head_dim]
        info = helper.make_tensor_value_info
        g.inputs += [info("ids", TensorProto.INT64, ["T"]), info("rows", TensorProto.INT64, [1])]
        vocabulary = self.shapes["token_embd.weight"][0]
        g.outputs.append(info("logits", TensorProto.FLOAT, ["R", vocabulary]))
        for layer in range(self.layout.layers):
            for part in ("key", "value"):
                name = f"{layer}.{part}"
                g.inputs.append(info(f"past.{name}", TensorProto.FLOAT, ["P", *cache]))
                g.outputs.append(info(f"new.{name}", TensorProto.FLOAT, ["T", *cache]))

    def _shapes_of_the_pass(self) -> None:
        """Positions, angles and masks: once for all layers."""
        g = self.g
        self.new = g.op("Shape", "ids")
        past = g.op("Shape", "past.0.key", start=0, end=1)
        total = g.op("Add", past, self.new)
        one, zero = g.constant(1, np.int64), g.constant(0, np.int64)
        scalar = [g.op("Squeeze", size, g.ints(0)) for size in (past, total)]
        query = g.op("Unsqueeze", g.op("Range", *scalar, one), g.ints(1))
        key = g.op("Unsqueeze", g.op("Range", zero, scalar[1], one), g.ints(0))
        late = g.op("Greater", key, query)
        self.masks = {False: self._mask(late)}
        self.angles = {False: self._angles(query, False)}
        if any(self.local):
            far = g.op("GreaterOrEqual", g.op("Sub", query, key), g.constant(self.window, np.int64))
            self.masks[True] = self._mask(g.op("Or", late, far))
            self.angles[True] = self._angles(query, True)
        heads = g.ints(self.layout.kv_heads, self.group, -1)
        self.by_query = g.op("Concat", heads, total, axis=0)
        self.by_head = g.op("Concat", g.ints(self.layout.kv_heads, -1), total, axis=0)

    def _mask(self, hidden: str) -> str:
        return self.g.op("Where", hidden, self.g.constant(-math.inf), self.g.constant(0.0))

    def _angles(self, positions: str, local: bool) -> tuple[str, str]:
        """Cosine and sine, shape (T, 1, head / 2), times the scaling's factor."""
        g = self.g
        frequencies, factor = _frequencies(self.layout.rope, self.layout.head_dim, local)
        turns = g.op("Mul", self._to_float(positions), g.constant(frequencies[None]))
        waves = [g.op("Unsqueeze", g.op(kind, turns), g.ints(1)) for kind in ("Cos", "Sin")]
        if factor != 1.0:
            waves = [g.op("Mul", wave, g.constant(factor)) for wave in waves]
        return waves[0], waves[1]

    def _to_float(self, x: str) -> str:
        from onnx import TensorProto, helper

        out = f"Cast.{len(self.g.nodes)}"
        self.g.nodes.append(helper.make_node("Cast", [x], [out], name=out, to=TensorProto.FLOAT))
        return out

    def _layer(self, layer: int, x: str) -> str:
        g, at = self.g, f"blk.{layer}."
        y = self._attention(layer, self._norm(x, at + "attn_norm.weight"))
        if self.gemma:
            y = self._norm(y, at + "post_attention_norm.weight")
        x = g.op("Add", x, y)
        y = self._norm(x, at + "ffn_norm.weight")
        gate = self._activate(self._linear(y, at + "ffn_gate"))
        y = self._linear(g.op("Mul", gate, self._linear(y, at + "ffn_up")), at + "ffn_down")
        if self.gemma:
            y = self._norm(y, at + "post_ffw_norm.weight")
        return g.op("Add", x, y)

    def _attention(self, layer: int, x: str) -> str:
        g, layout, at = self.g, self.layout, f"blk.{layer}."
        local = bool(self.local[layer])
        size, keys = layout.head_dim, layout.kv_heads
        q = self._rotate(self._heads(x, at + "attn_q", layout.heads), local)
        k = self._rotate(self._heads(x, at + "attn_k", keys), local, to=f"new.{layer}.key")
        v = g.op(
            "Reshape",
            self._linear(x, at + "attn_v"),
            g.ints(-1, keys, size),
            to=f"new.{layer}.value",
        )
        k = g.op("Concat", f"past.{layer}.key", k, axis=0)
        v = g.op("Concat", f"past.{layer}.value", v, axis=0)
        scale = float(layout.config["query_pre_attn_scalar"]) if self.gemma else float(size)
        q = g.op("Mul", q, g.constant(scale**-0.5))
        # Each key head serves `group` query heads: they become rows of one product.
        q = g.op("Reshape", q, g.ints(-1, keys, self.group, size))
        q = g.op("Reshape", g.op("Transpose", q, perm=[1, 2, 0, 3]), g.ints(keys, -1, size))
        scores = g.op("MatMul", q, g.op("Transpose", k, perm=[1, 2, 0]))
        scores = g.op("Add", g.op("Reshape", scores, self.by_query), self.masks[local])
        shares = g.op("Reshape", g.op("Softmax", scores, axis=-1), self.by_head)
        y = g.op("MatMul", shares, g.op("Transpose", v, perm=[1, 0, 2]))
        y = g.op("Reshape", y, g.ints(keys, self.group, -1, size))
        y = g.op("Transpose", y, perm=[2, 0, 1, 3])
        return self._linear(g.op("Reshape", y, g.ints(-1, layout.heads * size)), at + "attn_output")

    def _heads(self, x: str, name: str, heads: int) -> str:
        """A projection as (T, heads, head), normalised where the family does so."""
        y = self._linear(x, name)
        y = self.g.op("Reshape", y, self.g.ints(-1, heads, self.layout.head_dim))
        norm = f"{name}_norm.weight"
        return self._norm(y, norm) if norm in self.shapes else y

    def _rotate(self, x: str, local: bool, to: str | None = None) -> str:
        """Turn the first half of each head against its second (RoPE, arXiv 2104.09864)."""
        g, half = self.g, self.layout.head_dim // 2
        cos, sin = self.angles[local]
        one, two = (g.op("Slice", x, g.ints(at), g.ints(at + half), g.ints(2)) for at in (0, half))
        first = g.op("Sub", g.op("Mul", one, cos), g.op("Mul", two, sin))
        second = g.op("Add", g.op("Mul", two, cos), g.op("Mul", one, sin))
        return g.op("Concat", first, second, to=to, axis=2)

    def _norm(self, x: str, name: str) -> str:
        """RMS norm over the last dimension."""
        g = self.g
        mean = g.op("ReduceMean", g.op("Mul", x, x), axes=[-1], keepdims=1)
        root = g.op("Sqrt", g.op("Add", mean, g.constant(self.layout.eps)))
        weight = g.weight(name, "plain", "F32", self.shapes[name])
        return g.op("Mul", g.op("Div", x, root), weight)

    def _activate(self, x: str) -> str:
        g = self.g
        if not self.gemma:
            return g.op("Mul", x, g.op("Sigmoid", x))
        cube = g.op("Mul", g.op("Mul", x, x), x)
        inner = g.op("Add", x, g.op("Mul", cube, g.constant(0.044715)))
        tanh = g.op("Tanh", g.op("Mul", inner, g.constant(math.sqrt(2 / math.pi))))
        return g.op("Mul", g.op("Mul", x, g.constant(0.5)), g.op("Add", tanh, g.constant(1.0)))

    def _linear(self, x: str, name: str) -> str:
        y = self._matmul(x, f"{name}.weight")
        bias = f"{name}.bias"
        if bias not in self.shapes:
            return y
        return self.g.op("Add", y, self.g.weight(bias, "plain", "F32", self.shapes[bias]))

    def _matmul(self, x: str, name: str) -> str:
        g, (rows, columns) = self.g, self.shapes[name]
        if not self.int8:
            return g.op("MatMul", x, g.weight(name, "transposed", "F32", (columns, rows)))
        weight = g.weight(name, "quantised", "I8", (columns, rows))
        scale = g.weight(name, "scale", "F32", (rows,))
        low, step, zero = self._quantise(x)
        product = self._to_float(g.op("MatMulInteger", low, weight, zero))
        return g.op("Mul", product, g.op("Mul", step, scale))

    def _quantise(self, x: str) -> tuple[str, str, str]:
        """Activations as uint8, with their step and zero point; once for each activation."""
        from onnx import helper

        names = (f"{x}.u8", f"{x}.step", f"{x}.zero")
        if x not in self.quantised:
            self.quantised.add(x)
            self.g.nodes.append(
                helper.make_node("DynamicQuantizeLinear", [x], list(names), name=names[0])
            )
        return names


def _frequencies(rope: Rope, size: int, local: bool) -> tuple[NDArray[np.float32], float]:
    """Radians per position of the size / 2 pairs, and a factor for queries and keys."""
    base = rope.base_local if local and rope.base_local else rope.base
    steps: NDArray[np.float64] = base ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    if local or rope.kind == "default":
        return steps.astype(np.float32), 1.0
    if rope.kind == "linear":
        return (steps / rope.factor).astype(np.float32), 1.0
    if (factors := rope.frequency_factors(size)) is not None:
        return (steps / factors).astype(np.float32), 1.0
    if rope.kind == "yarn":
        return _yarn(rope, steps).astype(np.float32), _yarn_factor(rope)
    raise ModelError(f"config.json: rope scaling {rope.kind} is not supported in ONNX; make a GGUF")


def _yarn(rope: Rope, steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Long waves divided by the factor, short ones kept, a ramp between (arXiv 2309.00071)."""
    settings, size = rope.metadata(), 2 * len(steps)

    def dimension(turns: float) -> float:
        """The pair that turns so often within the original context."""
        waves = rope.original_context / (turns * 2 * math.pi)
        return size * math.log(waves) / (2 * math.log(rope.base))

    low = max(math.floor(dimension(float(settings["scaling.yarn_beta_fast"]))), 0)
    high = min(math.ceil(dimension(float(settings["scaling.yarn_beta_slow"]))), size - 1)
    ramp = np.clip((np.arange(len(steps)) - low) / max(high - low, 0.001), 0.0, 1.0)
    result: NDArray[np.float64] = steps * (ramp / rope.factor + 1.0 - ramp)
    return result


def _yarn_factor(rope: Rope) -> float:
    usual = 0.1 * math.log(rope.factor) + 1.0 if rope.factor > 1 else 1.0
    return usual * float(rope.metadata().get("scaling.attn_factor", 1.0))
