"""What a load test plays, and against whom: all that its parts share."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ...common.errors import UsageError
from ...wire.messages import Info
from .client import Client
from .trace import Step, Trace, steps_of

MOST_DEVICES = 5000


@dataclass(frozen=True)
class Plan:
    """What the devices do.

    Attributes:
        devices: how many.
        duration: measured seconds, after a warm-up in which they come one by one: 2 s, or until
            each has had an answer, but at most 15 s.
        tokens_per_s: of each device; 0: as fast as the verifier answers.
        upload_rate: share of tokens uploaded.
        drafts: tokens judged in one call.
        prefills_per_s: long prefills of one more device.
        prefill_ids: ids of such a prefill.
        deadline: seconds that a call may take, tries included.
    """

    devices: int
    duration: float
    tokens_per_s: float
    upload_rate: float = 0.1
    drafts: int = 1
    prefills_per_s: float = 0.0
    prefill_ids: int = 990
    deadline: float = 10.0

    def check(self) -> None:
        """Raise UsageError for what cannot be run."""
        if not 1 <= self.devices <= MOST_DEVICES:
            raise UsageError(f"devices lie between 1 and {MOST_DEVICES}, not {self.devices}")
        if not 1.0 <= self.duration <= 3600.0:
            raise UsageError("a duration lies between 1 and 3600 s")
        if not 0.0 <= self.tokens_per_s <= 1e4:
            raise UsageError("tokens per second of a device lie between 0 (no pause) and 10000")
        if not 0.0 < self.upload_rate <= 1.0:
            raise UsageError("an upload rate lies above 0 and at most at 1")
        if not 1 <= self.drafts <= 64:
            raise UsageError("a call has 1 to 64 drafts")
        if not 0.0 <= self.prefills_per_s <= 100.0 or not 2 <= self.prefill_ids <= 100_000:
            raise UsageError("prefills: at most 100 a second, of 2 to 100000 tokens")
        room = _open_files() - 64
        if self.devices > room:
            raise UsageError(
                f"{self.devices} devices need as many connections, and this shell allows "
                f"{max(0, room)}; raise it with `ulimit -n`"
            )


@dataclass(frozen=True)
class Load:
    """A plan, the replies that its devices play, and the verifier that they ask.

    Attributes:
        plan: what the devices do.
        traces: recorded replies.
        url: of the verifier.
        key: for it.
        info: what it says about itself.
        pid: of its process if it runs on this machine as a child, for its CPU time and memory.
    """

    plan: Plan
    traces: Sequence[Trace]
    url: str
    key: str | None
    info: Info
    pid: int | None = None

    @cached_property
    def steps(self) -> list[list[Step]]:
        """The calls of each trace.

        Raises:
            UsageError: there are none at this upload rate.
        """
        plan = self.plan
        steps = steps_of(self.traces, 1.0 if plan.drafts > 1 else plan.upload_rate, plan.drafts)
        if not any(step.drafts for reply in steps for step in reply):
            raise UsageError("at this upload rate the recorded replies have no upload; raise it")
        return steps

    def client(self) -> Client:
        """A connection with a session of its own."""
        return Client(self.url, self.key, secrets.token_hex(16))


def _open_files() -> int:
    if os.name != "posix":
        return MOST_DEVICES
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_DEVICES + 64 if soft == resource.RLIM_INFINITY else soft
