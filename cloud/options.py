"""Options of the verifier."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ..lm.engines.options import EngineOptions
from ..wire.messages import Limits


class UpstreamOptions(BaseModel):
    """The engine that `runtime` names, when it is not llama.cpp in this process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = Field(None, description="where it listens")
    model: str | None = Field(None, description="as it calls it; unset: the first that it serves")
    key_file: Path | None = Field(None, description="file with its key")
    top: int = Field(
        40,
        ge=1,
        le=1000,
        description="most likely tokens told of a position: the largest top-k; 40 is a device's",
    )
    timeout: float = Field(30.0, gt=0.0, le=600.0, description="seconds for one question")


class VerifierOptions(BaseModel):
    """Options of `uhlm-edge cloud`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        "demo-llm",
        description="GGUF file, or the name of a shipped model; with another runtime than llama "
        "only its vocabulary and template are used",
    )
    runtime: Literal["llama", "vllm", "sglang"] = Field(
        "llama", description="what runs the model; vllm and sglang: a server of theirs"
    )
    upstream: UpstreamOptions = UpstreamOptions()
    host: str = "127.0.0.1"
    port: int = Field(8787, ge=0, le=65535, description="0: any free one")
    sessions: int = Field(64, ge=1, le=256, description="conversations held at once")
    sessions_per_key: int = Field(0, ge=0, description="of them, for one key; 0: all")
    cells: int = Field(0, ge=0, description="tokens held for all sessions; 0: 8 full contexts")
    apart: bool = Field(
        False,
        description="each conversation in cells and passes of its own: what others ask moves no bit"
        " of its answers; fewer fit, and they share no pass",
    )
    parked_mb: int | None = Field(
        None,
        ge=0,
        description="memory for keys and values of sessions that made room for others; unset: a"
        " quarter of what is free",
    )
    idle_seconds: float = Field(1800.0, gt=0, description="then a session is forgotten")
    quantum: float = Field(
        0.25, ge=0, description="seconds that a busy session keeps its place while others wait"
    )
    queue: int = Field(512, ge=1, description="calls that may wait or run")
    calls_per_s: float = Field(0.0, ge=0, description="of one key; 0: as many as it likes")
    call_seconds: float = Field(60.0, gt=0, description="most time that a call may take")
    connections: int = Field(4096, ge=1, description="open at once")
    head_bytes: int = Field(16_384, ge=1024, description="of a request line and its headers")
    head_seconds: float = Field(10.0, gt=0, description="for them to arrive")
    drain_seconds: float = Field(30.0, ge=0, description="for running calls when it stops")
    log_calls: bool = Field(False, description="a line of JSON for each call, without texts")
    key_file: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    limits: Limits = Limits()
    engine: EngineOptions = EngineOptions()
