"""What the accept test aims at: the LLM, a weighted ensemble, or a contrast of both."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["LLM", "Contrastive", "Llm", "Target", "Weighted"]


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
    """r proportional to p q^-mu where p is at least a tenth of its peak (arXiv 2502.01662)."""

    kind: Literal["contrastive"] = "contrastive"
    mu: float = Field(0.1, ge=0.0, le=10.0)


Target = Annotated[Llm | Weighted | Contrastive, Field(discriminator="kind")]

LLM = Llm()
