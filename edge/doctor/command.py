"""`uhlm-edge doctor`: ask every question, print every answer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from ...common.errors import CloudError, UhlmError
from ...common.machine import read_machine
from ...common.streams import emit
from ...configs.config import Config
from ...configs.layers import load_config
from ...lm.engines.fit import fit
from ...lm.engines.llama_files import library_folder
from ...lm.gguf.check import check
from ...models.resolve import find_model
from ...models.store import default_folder
from ...wire.messages import Info
from ..chat.adjust import model_name
from ..chat.assemble import api_key
from ..device.power import Runner, run_command
from ..device.sensors import discover
from ..device.thermal import read_heat
from ..policy.calibration import ModelKey, model_digest
from ..policy.tuning import find_tuning, needs_calibration
from .board import check_clock, check_disk, check_energy, check_heat, check_memory, check_threads
from .finding import Finding, render, worst
from .processor import check_build, check_runtime, check_speed
from .trial import Trial, try_model
from .verifier import Measured, check_verifier, check_vocabulary, measure


@dataclass(frozen=True)
class Doctor:
    """Where the doctor looks. All of it can be made up.

    Args:
        root: of the tree that the kernel's files are read from.
        runner: runs the board's own tools.
        environment: of the process.
        trial: loads the model and writes a few tokens.
    """

    root: Path = Path("/")
    runner: Runner = run_command
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    trial: Callable[..., Trial] = try_model

    def examine(
        self, flags: Mapping[tuple[str, ...], Any], profile: str | None, file: Path | None
    ) -> Iterator[Finding]:
        """Every finding, each as soon as it is there."""
        try:
            loaded = load_config(flags, profile, file, self.environment)
        except UhlmError as error:
            yield Finding("configuration", "fail", str(error), "correct it; defaults are used here")
            config = Config()
        else:
            config = loaded.config
            given = sorted({o for o in loaded.origins.values() if o != "default"})
            if loaded.warnings:
                yield Finding("configuration", "warn", "; ".join(loaded.warnings), "correct it")
            else:
                yield Finding("configuration", "ok", ", ".join(given) or "defaults")
        yield from self._board()
        trial = yield from self._model(config)
        info = yield from self._verifier(config, trial)
        yield self._calibration(config, trial, info)

    def _board(self) -> Iterator[Finding]:
        board = read_machine(self.root).board
        yield Finding("board", "ok", board or "not named by its firmware")
        yield check_heat(read_heat(self.root, self.runner))
        yield check_energy(discover(self.root, self.runner))
        yield check_disk(default_folder(self.environment))
        yield check_clock(self.root, Path(__file__))

    def _model(self, config: Config) -> Generator[Finding, None, Trial]:
        """The machine and the model together. Returns how the trial went."""
        machine = read_machine(self.root)
        options = config.device.engine
        folder = library_folder()
        yield check_runtime(machine, folder)
        try:
            path = find_model(config.device.model)
            header = check(path)
        except UhlmError as error:
            yield Finding("model", "fail", str(error), "give another with --model")
            return Trial("file", fault=str(error))
        fitted = fit(options, header, machine)
        yield check_threads(machine, fitted)
        yield check_memory(machine, header, fitted, fitted.n_ctx)
        if folder is None:
            return Trial("import", fault="llama-cpp-python is not installed")
        trial = self.trial(path, options)
        yield check_build(machine, trial)
        yield check_speed(machine, trial)
        return trial

    def _verifier(self, config: Config, trial: Trial) -> Generator[Finding, None, Info | None]:
        """The way to the verifier. Returns what it says of itself, None if nothing."""
        cloud = config.cloud
        if cloud.offline or not cloud.url:
            reason = "offline by configuration" if cloud.offline else "none is configured"
            if cloud.demo and not cloud.offline:
                reason += "; the demo starts one on this machine"
            yield Finding("verifier", "ok", f"{reason}; give --cloud URL to look at one")
            return None
        try:
            measured: Measured | CloudError = measure(
                cloud.url, api_key(config, self.environment), cloud.ca_file, cloud.connect_timeout
            )
        except CloudError as error:
            measured = error
        except UhlmError as error:
            yield Finding("verifier", "fail", str(error), "correct [cloud] or the flag")
            return None
        yield check_verifier(measured, cloud.require)
        if isinstance(measured, CloudError):
            return None
        yield check_vocabulary(measured.info, trial.facts.get("fingerprint"))
        return measured.info

    def _calibration(self, config: Config, trial: Trial, info: Info | None) -> Finding:
        fingerprint = trial.facts.get("fingerprint")
        if not needs_calibration(config.strategy):
            return Finding("calibration", "ok", "not needed: the threshold is a number")
        if fingerprint is None:
            return Finding("calibration", "warn", "not looked for: the model did not load")
        path = find_model(config.device.model)
        vocabulary = (int(fingerprint[0]), str(fingerprint[1]))
        own = ModelKey(name=model_name(config), vocabulary=vocabulary, digest=model_digest(path))
        cloud = None
        if info is not None:
            cloud = ModelKey(name=info.model, vocabulary=tuple(info.fingerprint))
        elif config.cloud.demo and not config.cloud.url:
            name = find_model(config.verifier.model).name.removesuffix(".gguf")
            cloud = ModelKey(name=name, vocabulary=vocabulary)
        try:
            tuning = find_tuning(config, own, cloud, self.environment)
        except UhlmError as error:
            return Finding("calibration", "fail", str(error), "run `uhlm-edge calibrate`")
        if tuning is None:
            text = "none of this pair: the published threshold 0.073 of another pair is used"
            return Finding("calibration", "warn", text, "run `uhlm-edge calibrate` for this pair")
        name = tuning.calibration.name
        if advice := tuning.advice(config.strategy):
            return Finding("calibration", "warn", f"{name}: {advice}", "the threshold adapts")
        return Finding("calibration", "ok", name)


def run_doctor(
    doctor: Doctor,
    flags: Mapping[tuple[str, ...], Any],
    profile: str | None,
    file: Path | None,
    as_json: bool,
) -> None:
    """Print all findings; exit 1 if one of them failed."""
    findings = list(doctor.examine(flags, profile, file))
    level = worst(findings)
    if as_json:
        typer.echo(json.dumps({"level": level, "findings": [each.row() for each in findings]}))
    else:
        emit(render(findings))
    if level == "fail":
        raise typer.Exit(1)
