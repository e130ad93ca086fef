"""How a model is loaded and run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


class EngineOptions(BaseModel):
    """Options of the llama.cpp engine; what is 0 or unset, `fit` chooses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_ctx: int = Field(
        0, ge=0, description="tokens the context holds; 0: as the model was trained, at most 8,192"
    )
    n_batch: int = Field(512, ge=1, description="most tokens in one pass")
    n_threads: int = Field(
        0, ge=0, le=512, description="threads for single tokens; 0: one per core"
    )
    n_threads_batch: int = Field(
        0, ge=0, le=512, description="threads for many tokens; 0: one per core"
    )
    processes: int = Field(
        1, ge=1, description="models at work on this machine: they share the cores"
    )
    n_gpu_layers: int | None = Field(
        None, ge=-1, description="layers on the GPU; -1: all; unset: all if there is a GPU"
    )
    flash_attention: Literal["auto", "on", "off"] = "auto"
    cache_type_k: CacheType = "f16"
    cache_type_v: CacheType = "f16"
    mmap: bool = True
    mlock: bool = False
