"""For all tests: the quick ones go first, and pytest has the last word."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings


def pytest_configure() -> None:
    """Let Ctrl-C reach what the tests start: shells have background jobs ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Threads that wait for each other by spinning take the cores that the other tests need.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Slow boards run the same suite.
    slow = [HealthCheck.too_slow]
    settings.register_profile("uhlm", deadline=None, suppress_health_check=slow)
    settings.load_profile("uhlm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def pytest_unconfigure() -> None:
    """Close what llama_cpp opens at import and leaves open: told at exit, a warning is an error."""
    if utils := sys.modules.get("llama_cpp._utils"):
        utils.outnull_file.close()
        utils.errnull_file.close()
