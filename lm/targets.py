"""What the text shall follow: the LLM, a weighted ensemble, or a contrast of both."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from .sampling import Sampler


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Llm(_Frozen):
    """r = p: the text follows the LLM."""

    kind: Literal["llm"] = "llm"


class Weighted(_Frozen):
    """r = weight q + (1 - weight) p (arXiv 2502.01662)."""

    kind: Literal["weighted"] = "weighted"
    weight: float = Field(0.5, ge=0.0, le=1.0, description="of the device's q")


class Contrastive(_Frozen):
    """r proportional to p q^-mu (arXiv 2502.01662) where p is at least alpha of its peak.

    The mask is that of contrastive decoding (arXiv 2210.15097); alpha = 0 is none.
    """

    kind: Literal["contrastive"] = "contrastive"
    mu: float = Field(0.1, ge=0.0, le=10.0)
    alpha: float = Field(0.1, ge=0.0, le=1.0)


Target = Annotated[Llm | Weighted | Contrastive, Field(discriminator="kind")]

LLM = Llm()

Coupling = Literal["none", "gumbel"]
"""How the device's draws and the LLM's hang together: not at all, or by one Gumbel number per
position and id, so that both choose the same id whenever they can agree (arXiv 2408.07978)."""


def sampler_of_parts(sampler: Sampler, target: Target) -> Sampler:
    """How each model's distribution is made.

    Temperature 0 belongs to an ensemble, not to its parts: they are taken at temperature 1, and
    the most likely id of what they make is chosen. One-hot parts would leave a coin to decide.
    """
    if sampler.greedy and not isinstance(target, Llm):
        return sampler.model_copy(update={"temperature": 1.0})
    return sampler
