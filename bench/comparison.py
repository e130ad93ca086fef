"""Run a list of strategies over rows and seeds, remember what is finished, sum it up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..configs.config import Config
from ..lm.errors import DataError
from .cases import Case, digest_of
from .lineup import Entry
from .scoring import Outcome, seed_row, summary

__all__ = ["Comparison", "Journal", "Runner", "Units", "unit_key"]

Units = dict[str, dict[int, list[Outcome]]]
"""Outcomes by strategy and seed."""


class Runner(Protocol):
    """Answers rows: `strategies.Bench`, or a fake."""

    @property
    def config(self) -> Config:
        """What the strategies share."""
        ...

    def run(self, entry: Entry, cases: Sequence[Case], seed: int) -> Iterator[Outcome]:
        """The outcome of each row in turn."""
        ...


class Journal:
    """Finished units, a JSON line each, beside the results: an interrupted run goes on from there.

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
                unit = json.loads(line)
                outcomes = [Outcome.from_json(value) for value in unit["outcomes"]]
                self._units[str(unit["key"])] = outcomes
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a process that was killed

    def get(self, key: str) -> list[Outcome] | None:
        """A finished unit, None if it is not there."""
        return self._units.get(key)

    def add(self, key: str, strategy: str, seed: int, outcomes: Sequence[Outcome]) -> None:
        """Remember a finished unit."""
        self._units[key] = list(outcomes)
        if self._path is None:
            return
        unit = {"key": key, "strategy": strategy, "seed": seed}
        line = json.dumps({**unit, "outcomes": [asdict(outcome) for outcome in outcomes]})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def unit_key(config: Config, entry: Entry, cases: Sequence[Case], seed: int, more: str = "") -> str:
    """What a unit depends on, hashed: settings, rows, seed, and `more` (models, version, link)."""
    settings = config.model_copy(update={"strategy": entry.options}).model_dump(mode="json")
    del settings["chat"]["seed"]
    whole = json.dumps([settings, entry.kind, digest_of(cases), seed, more], sort_keys=True)
    return hashlib.blake2b(whole.encode(), digest_size=12).hexdigest()


@dataclass
class Comparison:
    """Strategies times seeds over the same rows.

    Attributes:
        runner: answers rows.
        entries: the strategies, in the order of the table.
        cases: the rows.
        seeds: one run over the rows for each.
        journal: what is finished.
        more: what else a strategy's numbers depend on; see `unit_key`.
        units: what has been measured so far, unfinished units included.
        reused: units that an earlier run had finished.
        partial: the run was interrupted.
    """

    runner: Runner
    entries: Sequence[Entry]
    cases: Sequence[Case]
    seeds: Sequence[int]
    journal: Journal
    more: Callable[[Entry], str] = lambda entry: ""
    units: Units = field(default_factory=dict)
    reused: int = 0
    partial: bool = False

    def run(self, advance: Callable[[str, int], None] = lambda label, rows: None) -> None:
        """Measure everything. An interrupt ends it early and leaves what there is.

        Args:
            advance: told the strategy and the number of rows that are done.
        """
        try:
            for entry in self._in_order():
                for seed in self.seeds:
                    self._run_unit(self._with_rate(entry), seed, advance)
        except KeyboardInterrupt:
            self.partial = True

    def rows(self) -> list[dict[str, Any]]:
        """The table, in the order of the list; `partial` marks what lacks rows or seeds."""
        found = []
        for entry in self.entries:
            seeds = {s: outcomes for s, outcomes in self.units.get(entry.label, {}).items()}
            seeds = {s: outcomes for s, outcomes in seeds.items() if outcomes}
            if not seeds:
                continue
            whole = len(seeds) == len(self.seeds) and all(
                len(outcomes) == len(self.cases) for outcomes in seeds.values()
            )
            found.append({**summary(entry.label, seeds), "partial": not whole})
        return found

    def _in_order(self) -> list[Entry]:
        """`rand` without a rate comes after the `uhlm` that it takes it from."""
        return sorted(self.entries, key=lambda entry: entry.borrows)

    def _with_rate(self, entry: Entry) -> Entry:
        if not entry.borrows:
            return entry
        model = next(e for e in self.entries if e.kind == "uhlm")
        rates = [seed_row(each)["transmission_rate"] for each in self.units[model.label].values()]
        known = [rate for rate in rates if rate is not None]
        if not known:
            raise DataError(f"{model.label} wrote no token: there is no rate for {entry.label}")
        return entry.at_rate(sum(known) / len(known))

    def _run_unit(self, entry: Entry, seed: int, advance: Callable[[str, int], None]) -> None:
        key = unit_key(self.runner.config, entry, self.cases, seed, self.more(entry))
        outcomes = self.units.setdefault(entry.label, {}).setdefault(seed, [])
        known = self.journal.get(key)
        if known is not None:
            outcomes += known
            self.reused += 1
            advance(entry.label, len(known))
            return
        for outcome in self.runner.run(entry, self.cases, seed):
            outcomes.append(outcome)
            advance(entry.label, 1)
        self.journal.add(key, entry.label, seed, outcomes)
