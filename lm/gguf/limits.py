"""Limits of the numbers in a GGUF header, beyond its form.

llama.cpp runs in this process and answers some of them with `abort()`, or reads where nothing is
(a matrix of integers). So they are refused here, in words. Each rule is a case that was tried on
llama.cpp with a file made for it; there may be more of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NoReturn

from ...common.text import one_line
from .header import ArraySummary, Header, Value

MAX_LAYERS = 512  # llama.cpp's own limits
MAX_EXPERTS = 1_024
MAX_VOCABULARY = 1 << 24  # ours: 16 times the largest there is
SCALINGS = ("none", "linear", "yarn", "longrope")

Refuse = Callable[[str], NoReturn]


def check_vocabulary(metadata: Mapping[str, Value], refuse: Refuse) -> None:
    """Compare what llama.cpp reads by position: one score and one type for every token.

    It takes these arrays as they are, so a short one would be read past its end.
    """
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        return
    if not isinstance(tokens, ArraySummary) or tokens.type != "string":
        refuse("tokenizer.ggml.tokens is not an array of strings")
    if metadata.get("tokenizer.ggml.model") in ("none", "no_vocab"):
        refuse("tokenizer.ggml.model says that there is no vocabulary")
    for key, types in (("scores", ("f32",)), ("token_type", ("i32", "u32"))):
        array = metadata.get(f"tokenizer.ggml.{key}")
        if array is None:
            continue
        if not isinstance(array, ArraySummary) or array.type not in types:
            refuse(f"tokenizer.ggml.{key} is not an array of {types[0]}")
        if array.length != tokens.length:
            refuse(f"tokenizer.ggml.{key} has {array.length} items for {tokens.length} tokens")
    merges = metadata.get("tokenizer.ggml.merges")
    if merges is not None and not (isinstance(merges, ArraySummary) and merges.type == "string"):
        refuse("tokenizer.ggml.merges is not an array of strings")


def check_limits(header: Header, refuse: Refuse) -> None:
    """Refuse tensors and settings that llama.cpp does not survive."""
    for tensor in header.tensors:
        if (tensor.type[0] == "I" and tensor.type[1].isdigit()) or tensor.type == "F64":
            refuse(
                f"the tensor {_name(tensor.name)} is {tensor.type}, which no layer computes with"
            )
    if header.architecture is None:
        return  # no model: an importance matrix, for instance
    for tensor in header.tensors:
        if len(tensor.shape) == 1 and tensor.type != "F32":
            refuse(f"the vector {_name(tensor.name)} is {tensor.type}; vectors must be F32")
    _Settings(header.metadata, header.architecture, refuse).check()


class _Settings:
    """The keys below the architecture's name."""

    def __init__(self, metadata: Mapping[str, Value], arch: str, refuse: Refuse) -> None:
        self.below = {
            key.removeprefix(f"{arch}."): value
            for key, value in metadata.items()
            if key.startswith(f"{arch}.")
        }
        self.refuse = refuse

    def check(self) -> None:
        for key, value in self.below.items():
            if isinstance(value, float) and not math.isfinite(value):
                self.refuse(f"{_name(key)} is {value}")
            if key.endswith("epsilon") and isinstance(value, float) and value < 0:
                self.refuse(f"{_name(key)} is {value}, below 0")
        layers = self.number("block_count")
        if layers is not None and not 1 <= layers <= MAX_LAYERS:
            self.refuse(f"block_count is {layers}; 1 to {MAX_LAYERS} layers are possible")
        if layers is not None and (self.number("nextn_predict_layers") or 0) > layers:
            self.refuse("nextn_predict_layers exceeds block_count")
        vocabulary = self.number("vocab_size")
        if vocabulary is not None and not 1 <= vocabulary <= MAX_VOCABULARY:
            self.refuse(f"vocab_size is {vocabulary}; 1 to {MAX_VOCABULARY} are possible")
        scaling = self.below.get("rope.scaling.type")
        if scaling is not None and scaling not in SCALINGS:
            self.refuse(f"rope.scaling.type is {_name(str(scaling))}, not {', '.join(SCALINGS)}")
        self.experts()

    def experts(self) -> None:
        """Experts, those used, and groups of them must be possible together."""
        count, groups = self.number("expert_count") or 0, self.number("expert_group_count") or 0
        if count > MAX_EXPERTS:
            self.refuse(f"expert_count is {count}; {MAX_EXPERTS} is the most")
        used = self.below.get("expert_used_count", 0)
        most = max((v for v in _items(used) if isinstance(v, int)), default=0)
        if most > count or (count and not most):
            self.refuse(f"expert_used_count is {most} of {count}")
        if groups and (groups >= count or count % groups):
            self.refuse(f"expert_group_count is {groups} for {count} experts")
        if groups > 1 and not 0 < (self.number("expert_group_used_count") or 0) <= groups:
            self.refuse("expert_group_used_count does not fit expert_group_count")

    def number(self, key: str) -> int | None:
        value = self.below.get(key)
        return value if isinstance(value, int) else None


def _items(value: Value) -> tuple[Value, ...]:
    return value.head if isinstance(value, ArraySummary) else (value,)


def _name(text: str) -> str:
    return f"'{one_line(text, 60)}'"
