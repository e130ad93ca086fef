"""Run a list of strategies over rows and seeds, remember what is finished, sum it up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...common.errors import DataError
from ...common.prompts import Case
from ...configs.config import Config
from ..harness.scoring import Outcome, seed_row, summary
from .specs import StrategySpec

AT_ONCE = 12
"""Strategies that take turns: each has a session with the verifier, which holds a few."""

Units = dict[str, dict[int, list[Outcome]]]
"""Outcomes by strategy and seed."""


class Runner(Protocol):
    """Answers rows: `strategies.Bench`, or a fake."""

    @property
    def config(self) -> Config:
        """What the strategies share."""
        ...

    def run(
        self, spec: StrategySpec, cases: Sequence[Case], seed: int, start: int = 0
    ) -> Generator[Outcome, None, None]:
        """The outcomes of the rows from `start` on, in turn."""
        ...


class Journal:
    """Outcomes, a JSON line each, beside the results: an interrupted run goes on from there.

    Args:
        path: None to keep nothing.
        fresh: begin anew instead of reading what is there.
    """

    def __init__(self, path: Path | None, fresh: bool = False) -> None:
        self._path = path
        self._units: dict[str, list[Outcome]] = {}
        if path is None or not path.exists():
            return
        if fresh:
            path.unlink()
            return
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                known = json.loads(line)
                outcomes = self._units.setdefault(str(known["key"]), [])
                row, outcome = known["row"], Outcome.from_json(known["outcome"])
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a process that was killed
            if 0 <= row <= len(outcomes):  # a unit that began anew overwrites what it had
                outcomes[row:] = [outcome]

    def get(self, key: str) -> list[Outcome]:
        """What is known of a unit: its first rows."""
        return list(self._units.get(key, []))

    def add(self, key: str, row: int, outcome: Outcome) -> None:
        """Remember the outcome of a row."""
        if self._path is not None:
            line = json.dumps({"key": key, "row": row, "outcome": asdict(outcome)})
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def unit_key(
    config: Config, spec: StrategySpec, cases: Sequence[Case], seed: int, more: str = ""
) -> str:
    """What a unit depends on, hashed: settings, rows, seed, and `more` (models, version, link)."""
    settings = config.model_copy(update={"strategy": spec.options}).model_dump(mode="json")
    del settings["chat"]["seed"]
    rows = hashlib.blake2b(repr(cases).encode(), digest_size=8).hexdigest()
    whole = json.dumps([settings, spec.kind, rows, seed, more], sort_keys=True)
    return hashlib.blake2b(whole.encode(), digest_size=12).hexdigest()


@dataclass
class Comparison:
    """Strategies times seeds over the same rows.

    Attributes:
        runner: answers rows.
        specs: the strategies, in the order of the table.
        cases: the rows.
        seeds: one run over the rows for each.
        journal: what is finished.
        more: what else a strategy's numbers depend on; see `unit_key`.
        units: what has been measured so far, unfinished units included.
        reused: replies of an earlier run.
        partial: the run was interrupted.
    """

    runner: Runner
    specs: Sequence[StrategySpec]
    cases: Sequence[Case]
    seeds: Sequence[int]
    journal: Journal
    more: Callable[[StrategySpec], str] = lambda spec: ""
    units: Units = field(default_factory=dict)
    reused: int = 0
    partial: bool = False

    def run(self, advance: Callable[[str, int], None] = lambda label, rows: None) -> None:
        """Measure everything. An interrupt ends it early and leaves what there is.

        All strategies answer a row before any answers the next: a machine that is busy for a while
        slows all of them down, and what an interrupt leaves is over the same rows.

        Args:
            advance: told the strategy and the number of rows that are done.
        """
        try:
            for specs in self._batches():
                for seed in self.seeds:
                    with ExitStack() as stack:
                        units = [self._unit(self._with_rate(e), seed, stack) for e in specs]
                        for unit in units:
                            advance(unit.spec.label, len(unit.outcomes))
                        self._take_turns(units, advance)
        except KeyboardInterrupt:
            self.partial = True

    def _take_turns(self, units: Sequence[_Unit], advance: Callable[[str, int], None]) -> None:
        for row in range(len(self.cases)):
            for unit in units:
                if len(unit.outcomes) == row:
                    unit.outcomes.append(next(unit.replies))
                    self.journal.add(unit.key, row, unit.outcomes[-1])
                    advance(unit.spec.label, 1)

    def rows(self) -> list[dict[str, Any]]:
        """The table, in the order of the list; `partial` marks what lacks rows or seeds."""
        found = []
        for spec in self.specs:
            seeds = {s: outcomes for s, outcomes in self.units.get(spec.label, {}).items()}
            seeds = {s: outcomes for s, outcomes in seeds.items() if outcomes}
            if not seeds:
                continue
            whole = len(seeds) == len(self.seeds) and all(
                len(outcomes) == len(self.cases) for outcomes in seeds.values()
            )
            found.append({**summary(spec.label, seeds), "partial": not whole})
        return found

    def _batches(self) -> list[list[StrategySpec]]:
        """Who takes turns. `rand` without a rate comes after the `uhlm` that it takes it from."""
        parts = [[e for e in self.specs if e.borrows is late] for late in (False, True)]
        return [part[at : at + AT_ONCE] for part in parts for at in range(0, len(part), AT_ONCE)]

    def _with_rate(self, spec: StrategySpec) -> StrategySpec:
        if not spec.borrows:
            return spec
        model = next(e for e in self.specs if e.kind == "uhlm")
        rates = [seed_row(each)["transmission_rate"] for each in self.units[model.label].values()]
        known = [rate for rate in rates if rate is not None]
        if not known:
            raise DataError(f"{model.label} wrote no token: there is no rate for {spec.label}")
        return spec.at_rate(sum(known) / len(known))

    def _unit(self, spec: StrategySpec, seed: int, stack: ExitStack) -> _Unit:
        """One strategy under one seed, from where an earlier run left it."""
        key = unit_key(self.runner.config, spec, self.cases, seed, self.more(spec))
        known = self.journal.get(key)
        if spec.learns and len(known) < len(self.cases):
            known = []  # what its policy had learnt is gone
        self.reused += len(known)
        self.units.setdefault(spec.label, {})[seed] = known
        replies = self.runner.run(spec, self.cases, seed, len(known))
        return _Unit(spec, key, known, stack.enter_context(closing(replies)))


@dataclass(frozen=True)
class _Unit:
    """Replies under way, and what they have come to so far."""

    spec: StrategySpec
    key: str
    outcomes: list[Outcome]
    replies: Generator[Outcome, None, None]
