"""Rotary position settings of a Hugging Face config, as llama.cpp wants them.

Configs come in two forms: `rope_theta` with `rope_scaling` beside it, and, since transformers 5,
one `rope_parameters`, per kind of layer where a model mixes two kinds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.errors import ModelError

_NEEDED: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
KINDS = tuple(_NEEDED)


@dataclass(frozen=True)
class Rope:
    """Base frequency and scaling of the rotary positions.

    `base_local` is the base of sliding-window layers, None where there are none.
    """

    base: float
    kind: str
    scaling: Mapping[str, Any]
    context: int
    base_local: float | None = None

    @property
    def factor(self) -> float:
        return float(self.scaling.get("factor", 1.0))

    @property
    def original_context(self) -> int:
        return int(self.scaling.get("original_max_position_embeddings") or self.context)

    def metadata(self) -> dict[str, int | float | str]:
        """Keys below `ARCH.rope.`; `llama3` needs none, its factors are a tensor."""
        keys: dict[str, int | float | str] = {"freq_base": self.base}
        if self.base_local is not None:
            keys["freq_base_swa"] = self.base_local
        if self.kind in ("linear", "yarn"):
            keys |= {"scaling.type": self.kind, "scaling.factor": self.factor}
        if self.kind == "yarn":
            keys["scaling.original_context_length"] = self.original_context
            keys["scaling.yarn_beta_fast"] = float(self.scaling.get("beta_fast") or 32.0)
            keys["scaling.yarn_beta_slow"] = float(self.scaling.get("beta_slow") or 1.0)
            if (attention := self._yarn_attention()) != 1.0:
                keys["scaling.attn_factor"] = attention
        return keys

    def _yarn_attention(self) -> float:
        """The attention factor relative to 0.1 ln(factor) + 1, which llama.cpp applies by itself.

        Source: YaRN (arXiv 2309.00071), equation 22, and its `mscale` variant of DeepSeek-V2.
        """
        usual = 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0
        if (given := self.scaling.get("attention_factor")) is not None:
            return float(given) / usual
        above, below = self.scaling.get("mscale"), self.scaling.get("mscale_all_dim")
        if above and below and self.factor > 1:
            log = 0.1 * math.log(self.factor)
            return (float(above) * log + 1.0) / (float(below) * log + 1.0) / usual
        return 1.0

    def frequency_factors(self, dimension: int) -> NDArray[np.float32] | None:
        """Divisors of the dimension / 2 frequencies for `llama3` scaling, None for others.

        Long waves are stretched by `factor`, short ones kept, those between interpolated
        (Llama 3.1 model card; the same rule as transformers' `llama3`).
        """
        if self.kind != "llama3":
            return None
        low, high = (float(self.scaling[k]) for k in ("low_freq_factor", "high_freq_factor"))
        wave = 2 * math.pi * self.base ** (np.arange(0, dimension, 2, dtype=np.float64) / dimension)
        turns = self.original_context / wave
        smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
        return (1.0 / ((1.0 - smooth) / self.factor + smooth)).astype(np.float32)


def read_rope(config: Mapping[str, Any], local_base: float | None = None) -> Rope:
    """The rotary settings of a config.

    `local_base` is the default base of sliding-window layers, None for families without them.

    Raises:
        ModelError: a kind of scaling that llama.cpp does not compute in the same way.
    """
    context = int(config["max_position_embeddings"])
    settings = config.get("rope_parameters") or {}
    if "full_attention" in settings:
        if local_base is not None:
            local = settings.get("sliding_attention") or {}
            if str(local.get("rope_type", "default")) != "default":
                raise ModelError(
                    "config.json: scaled positions in sliding-window layers are not supported"
                )
            local_base = float(local.get("rope_theta", local_base))
        settings = settings["full_attention"] or {}
    elif local_base is not None:
        local_base = float(config.get("rope_local_base_freq", local_base))
    scaling = settings or config.get("rope_scaling") or {}
    kind = str(scaling.get("rope_type") or scaling.get("type") or "default")
    if kind not in KINDS:
        raise ModelError(
            f"config.json: rope scaling of kind {kind!r} is not supported; {', '.join(KINDS)} are"
        )
    numbers = [positive(scaling, key) for key in _NEEDED[kind]]
    if kind == "llama3" and numbers[1] >= numbers[2]:
        raise ModelError(
            "config.json: rope scaling llama3 needs low_freq_factor < high_freq_factor"
        )
    if kind == "yarn" and scaling.get("truncate") is False:
        raise ModelError("config.json: yarn without truncation of its range is not supported")
    if float(config.get("partial_rotary_factor") or scaling.get("partial_rotary_factor") or 1) != 1:
        raise ModelError("config.json: rotary positions on a part of a head are not supported")
    base = positive(config if settings.get("rope_theta") is None else settings, "rope_theta", 1e4)
    if local_base is not None and not 0 < local_base < math.inf:
        raise ModelError(f"config.json: the rope base {local_base} of local layers is impossible")
    return Rope(base, kind, scaling, context, local_base)


def positive(values: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """The finite number above 0 under a key.

    Raises:
        ModelError: it is something else.
    """
    value = values.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelError(f"config.json: {key} = {value!r} is not a number")
    if not 0 < value < 1e30:
        raise ModelError(f"config.json: {key} = {value!r} is not a number above 0 that is finite")
    return float(value)
