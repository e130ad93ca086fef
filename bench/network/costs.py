"""What each strategy costs on a pair of models: the measured input of the channel model."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from ...common.errors import CloudError, DataError, UsageError
from ...common.prompts import Message, read_text
from ...configs.config import Config
from ...edge.chat.assemble import assemble
from ...edge.events import Token
from ..energy.workload import seeded
from .channel import StrategyCost
from .slow_engine import slow_device

PIPELINED = " pipelined"
"""Ends the name of a strategy that drafts on while a call is under way."""


ROUNDS = 3
"""How often the prompts are gone through."""


@dataclass(frozen=True)
class Measured:
    """A cost, and the throughput that was seen while it was measured (None: not run so)."""

    cost: StrategyCost
    tokens: int
    tokens_per_s: float | None


def measure_all(
    config: Config,
    strategies: Sequence[str],
    prompts: Sequence[Sequence[Message]],
    tell: Callable[[str], None],
    device_s: float | None = None,
) -> list[Measured]:
    """Measure each strategy over the verifier as it is reached now.

    A strategy that skips and judges the last draft gets a second entry, pipelined: the same cost,
    for what the device computes per kept token does not change.

    Raises:
        UsageError: there is no such strategy: known before anything is measured.
    """
    for name in strategies:
        seeded(config, name)
    found: list[Measured] = []
    for name in strategies:
        tell(f"measuring {name}")
        measured = measure_cost(config, name, prompts, device_s)
        found.append(measured)
        if name not in ("local", "cloud"):
            cost = replace(measured.cost, strategy=name + PIPELINED, pipelined=True)
            found.append(Measured(cost, measured.tokens, None))
    return found


def measure_cost(
    config: Config,
    strategy: str,
    prompts: Sequence[Sequence[Message]],
    device_s: float | None = None,
) -> Measured:
    """Answer the prompts with one strategy and count what it cost. One reply warms up.

    With `device_s` the device takes at least that time per id (`slow_engine.py`).

    Bytes are those on the wire, request line and headers included. The time of a call is what the
    device waited for it: verifier, HTTP at both ends, and the link as it is; so measure over
    loopback what is to be put on another channel.

    Raises:
        UsageError: no such strategy, or no verifier for it.
        CloudError: the verifier was away for part of it: the numbers would be the device's alone.
    """
    name = strategy.removesuffix(PIPELINED)
    pipelined = name != strategy
    mine = seeded(config, name)
    options = mine.strategy.model_copy(update={"pipelined": "on" if pipelined else "off"})
    mine = mine.model_copy(update={"strategy": options})
    tokens = calls = rejected = uploads = judged = up = down = 0
    device: list[float] = []
    waits: list[float] = []
    elapsed = 0.0
    with assemble(mine, _raise_on_notice) as assistant:
        if name != "local" and assistant.session.is_offline:
            raise UsageError(f"{name} needs a verifier: give --cloud URL, or the demo profile")
        if device_s is not None:
            slow_device(assistant, device_s)
        for number, messages in enumerate([prompts[0], *[*prompts] * ROUNDS]):
            start = time.perf_counter()
            written = sum(1 for event in assistant.answer(messages) if isinstance(event, Token))
            took = time.perf_counter() - start
            loop = assistant.loop
            if loop is None or number == 0 or written == 0:
                continue
            stats = loop.stats
            if stats.offline_reason is not None:
                raise CloudError(f"the verifier was away: {stats.offline_reason}")
            made = stats.uploads + stats.audits
            device.append((stats.prefill_time + stats.device_time) / written)
            elapsed += took
            if made:
                waits.append(stats.wait_time / made)
            tokens, calls, uploads = tokens + written, calls + made, uploads + stats.uploads
            rejected, judged = rejected + stats.rejected, judged + stats.from_llm
            up, down = up + stats.wire_up, down + stats.wire_down
    if tokens == 0:
        raise UsageError("no reply had a token: nothing was measured")
    cost = StrategyCost(
        strategy=strategy,
        device_ms_per_token=1e3 * median(device),
        cloud_ms_per_call=1e3 * median(waits) if waits else 0.0,
        calls_per_token=calls / tokens,
        up_bytes_per_call=up / calls if calls else 0.0,
        down_bytes_per_call=down / calls if calls else 0.0,
        drafts_per_call=0.0 if name in ("local", "cloud") or not calls else judged / calls,
        rejection_rate=min(1.0, rejected / uploads) if uploads else 0.0,
        pipelined=pipelined,
    )
    return Measured(cost, tokens, tokens / elapsed)


def save_costs(measured: Sequence[Measured], path: Path) -> None:
    """Write what was measured as JSON, for another run with `load_costs`."""
    path.write_text(json.dumps([asdict(item) for item in measured], indent=1) + "\n", "utf-8")


def load_costs(path: Path) -> list[Measured]:
    """Read what `save_costs` wrote.

    Raises:
        DataError: the file cannot be read, or an entry is wrong; the message has its number.
    """
    try:
        entries: Any = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: not a list of measured costs")
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            cost = StrategyCost(**entry["cost"])
            found.append(Measured(cost, int(entry["tokens"]), entry["tokens_per_s"]))
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise DataError(f"{path}: entry {number}: {error}") from error
    return found


def _raise_on_notice(line: str) -> None:
    raise CloudError(line)


if __name__ == "__main__":  # for another process: arguments as JSON in, the result as JSON out
    given = json.loads(sys.argv[1])
    config = Config.model_validate(given.pop("config"))
    print(json.dumps(asdict(measure_cost(config, **given))))
