"""Logs of the servers and of `--verbose` on stderr, made harmless like everything printed."""

from __future__ import annotations

import logging
import sys

from .text import harmless


class _Harmless(logging.Formatter):
    """Messages and tracebacks hold what others sent."""

    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record))


def log_to_stderr(name: str, level: int = logging.WARNING) -> None:
    """Write what the logger of that name is told to stderr, and nowhere else."""
    logger = logging.getLogger(name)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Harmless("%(message)s"))
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level)
