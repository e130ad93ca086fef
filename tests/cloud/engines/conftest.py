"""The real vLLM, once for all tests that want it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .checkpoint import as_checkpoint
from .real import RealVllm


@pytest.fixture(scope="session")
def real_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealVllm]:
    """A server of the shipped LLM in 32-bit floats."""
    python = os.environ.get("VLLM_PYTHON")
    if not python:
        pytest.skip("a real vLLM runs in `make test-vllm` alone")
    running = RealVllm(python, as_checkpoint("demo-llm", tmp_path_factory.mktemp("checkpoint")))
    yield running
    running.kill()
