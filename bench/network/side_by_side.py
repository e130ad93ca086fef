"""The channel model beside reality: each strategy over a real slow link, and what was predicted."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...common.errors import ResourceError, UsageError
from ...common.files import interruptible
from ...common.prompts import Message
from ...configs.config import Config
from .channel import Channel, seconds_per_token
from .costs import Measured
from .link_spec import LinkSpec
from .real_link import HOWS, How, slow_link

COLUMNS = (
    "strategy", "link", "round_trip_ms", "up_bps", "modelled_tokens_per_s", "measured_tokens_per_s",
    "ratio", "modelled_calls_per_token", "measured_calls_per_token", "n_tokens",
)  # fmt: skip

_PER_RUN_S = 600.0


def as_channel(spec: LinkSpec) -> Channel:
    """The channel with the delay and the rates of a link: at 0 dB, one bit per second and hertz."""
    return Channel(
        snr_db=0.0,
        bandwidth_hz=spec.up_bps or 1e12,
        fading="none",
        round_trip_s=2 * spec.delay_ms / 1000,
        downlink_bps=spec.down_bps,
    )


def compare(
    config: Config,
    measured: Sequence[Measured],
    spec: LinkSpec,
    kinds: Sequence[str],
    prompts: Sequence[Sequence[Message]],
    tell: Callable[[str], None],
    device_s: float | None = None,
) -> Iterator[dict[str, Any]]:
    """Run each strategy in a process of its own on the device's side of a slow link.

    Raises:
        ResourceError: no such link can be made here, or a run fails.
        UsageError: an unknown kind of link.
    """
    chosen: list[How] = [kind for kind in HOWS if kind in kinds]
    if len(chosen) != len(kinds):
        raise UsageError(f"kinds of links are {', '.join(HOWS)}, not {', '.join(kinds)}")
    server = [sys.executable, "-m", "uhlm_edge.cli", "cloud", "--model", config.verifier.model,
              "--host", "{host}", "--port", "{port}"]  # fmt: skip
    env = {**os.environ, "UHLM_API_KEY": secrets.token_hex(16)}
    with (
        interruptible(),  # namespaces and processes must not outlive the run
        slow_link(spec, server, kinds=chosen, env=env, loopback=True) as link,
    ):
        for kind, why in link.passed_over.items():
            tell(f"no {kind} link: {why}")
        tell(f"the link: {link.how}")
        cloud = config.cloud.model_copy(update={"url": f"http://{link.host}:{link.port}"})
        mine = config.model_copy(update={"cloud": cloud}).model_dump(mode="json")
        for item in measured:
            name = item.cost.strategy
            tell(f"{name} over the link")
            given = {"config": mine, "strategy": name, "prompts": prompts, "device_s": device_s}
            command = [sys.executable, "-m", "uhlm_edge.bench.network.costs", json.dumps(given)]
            done = link.run(command, _PER_RUN_S, env)
            if done.returncode != 0:
                said = done.stderr.strip().splitlines()
                raise ResourceError(f"{name} over the link: {said[-1] if said else 'no output'}")
            seen = json.loads(done.stdout)
            modelled = 1 / seconds_per_token(item.cost, as_channel(spec))
            yield {
                "strategy": name,
                "link": link.kind,
                "how": link.how,
                "round_trip_ms": 2 * spec.delay_ms,
                "jitter_ms": spec.jitter_ms,
                "loss": spec.loss if link.kind != "proxy" else 0.0,
                "up_bps": spec.up_bps,
                "down_bps": spec.down_bps,
                "modelled_tokens_per_s": modelled,
                "measured_tokens_per_s": seen["tokens_per_s"],
                "ratio": seen["tokens_per_s"] / modelled,
                "device_ms": None if device_s is None else 1000 * device_s,
                "n_tokens": seen["tokens"],
                "modelled_calls_per_token": item.cost.calls_per_token,
                "measured_calls_per_token": seen["cost"]["calls_per_token"],
            }
