"""Every error a user can cause, in one tree. Each carries the exit code of the command line.

UhlmError (1)
├── UsageError (2)            a flag, a value or an input that cannot be used
│   ├── ConfigError           a profile, a config file, a key in it, an environment variable
│   └── DataError             a data file: prompts, evaluation rows, calibration
├── ModelError (3)            a model file or its content is refused
│   └── VocabularyMismatch    two models that do not share a vocabulary
├── EngineError (1)           a model failed while running
│   └── ContextFull           no room for another token
├── ResourceError (1)         disk, memory or a sensor that is not there
└── CloudError (4)            the verifier gave no usable answer; never an answer itself
    ├── Unreachable           no connection, a reset one, a bad address
    ├── DeadlineExceeded      it took longer than the caller allowed
    ├── Refused               it said no for good: the key, or a verifier that does not fit
    ├── Rejected              it takes no such call: this program's fault, or another program
    ├── Overloaded            it said not now: `retry_after` seconds
    └── ProtocolError         it answered something that is not an answer
"""

from __future__ import annotations

import re


class UhlmError(Exception):
    """Base of all: `str(error)` is one line that says what is wrong and what to do."""

    exit_code = 1


class UsageError(UhlmError):
    """The caller asked for something that cannot be done as asked."""

    exit_code = 2


class ConfigError(UsageError):
    """A profile, a config file, a key in it or an environment variable is wrong."""


class DataError(UsageError):
    """A data file is wrong; the message names the file and the line."""


class ModelError(UhlmError):
    """A model file is missing, damaged, hostile or of a kind that cannot be used."""

    exit_code = 3


class VocabularyMismatch(ModelError):
    """Two models must share a vocabulary and do not."""


class EngineError(UhlmError):
    """A model that loaded failed while running."""


class ContextFull(EngineError):
    """The context has no room for another token."""


class ResourceError(UhlmError):
    """The machine lacks something: disk space, memory, a sensor."""


class CloudError(UhlmError):
    """The verifier gave no usable answer. The text goes on without it.

    Attributes:
        cost: seconds that one more try can be expected to take in vain; None if unknown.
    """

    exit_code = 4
    cost: float | None = None


class Unreachable(CloudError):
    """No connection, a connection that broke, or an address that leads nowhere."""


class DeadlineExceeded(CloudError):
    """The whole call took longer than allowed."""


class Refused(CloudError):
    """The verifier said no, and would say so again: a wrong key, or it does not fit."""


class Rejected(CloudError):
    """The verifier takes no such call: malformed, out of range, unknown.

    No user can cause that: it is a fault of one of the two programs.
    """


class Overloaded(CloudError):
    """The verifier said not now.

    `retry_after` is in seconds, None if it did not say.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ProtocolError(CloudError):
    """The answer does not fit the question: schema, range, id, prefix."""


def cause_of(error: BaseException) -> str:
    """The innermost reason, without the addresses of objects around it."""
    seen = error
    while True:
        reason = getattr(seen, "reason", None)
        inner = reason if isinstance(reason, BaseException) else seen.__cause__
        if inner is None and seen.args and isinstance(seen.args[0], BaseException):
            inner = seen.args[0]
        if inner is None:
            break
        seen = inner
    text = str(seen).splitlines()[0] if str(seen) else type(seen).__name__
    return re.sub(r"^<[^>]*>: |^\w+\(.*?\): |^\[Errno -?\d+\] ", "", text)[:120]
