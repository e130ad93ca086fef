"""Load the model and write a few tokens, in a process of its own: what crashes there is a finding.

`python -m uhlm_edge.edge.doctor.trial MODEL OPTIONS` prints a line of JSON before each step, so
that a process killed by a wrong instruction has said how far it came.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...common.errors import UhlmError
from ...lm.engines.options import EngineOptions

_PROMPT = "The capital of Peru is Lima. " * 16
_READ = 64  # ids in one pass: wide passes run other code than single ids, and it may crash alone
_TOKENS = 8
_SECONDS = 300.0  # emulators and slow cards


@dataclass(frozen=True)
class Trial:
    """How far it came, what it said, and why it ended early ("" if it did not)."""

    step: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""
    signal: str = ""

    @property
    def finished(self) -> bool:
        """Did the model load and write?"""
        return self.step == "done"


def try_model(model: Path, options: EngineOptions, seconds: float = _SECONDS) -> Trial:
    """Run the trial. Never raises for what the model or the build does."""
    command = [sys.executable, "-m", "uhlm_edge.edge.doctor.trial", str(model)]
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            [*command, options.model_dump_json()], capture_output=True, text=True, errors="replace",
            timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Trial("unknown", fault=f"it had not written {_TOKENS} tokens after {seconds:g} s")
    step, facts = "start", dict[str, Any]()
    for line in done.stdout.splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue  # something else that wrote to stdout
        step = said.pop("step", step)
        facts |= said
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return Trial(step, facts, f"killed by {name}", name)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return Trial(step, facts, str(facts.pop("error", last)))
    return Trial(step, facts)


def _say(step: str, **facts: Any) -> None:
    print(json.dumps({"step": step, **facts}), flush=True)


def _main(model: str, options: str) -> int:
    _say("import")
    from ...lm.engines.llama_build import llama_build, supports_gpu

    _say("system info")
    _say("load", **llama_build(), supports_gpu=supports_gpu())
    from ...lm.engines.llama import LlamaEngine

    try:
        begun = time.monotonic()
        engine = LlamaEngine(Path(model), EngineOptions.model_validate_json(options))
        vocab = engine.vocab
        _say(
            "decode",
            load_seconds=time.monotonic() - begun,
            backend=engine.model.backend,
            fingerprint=vocab.fingerprint,
            n_ctx=engine.n_ctx,
        )
        ids = vocab.tokenize(_PROMPT)[: min(_READ, engine.n_ctx // 2)] or [0]
        token = int(engine.eval(ids)[-1].argmax())
        begun = time.monotonic()
        for _ in range(_TOKENS):
            token = int(engine.eval([token])[-1].argmax())
        _say("done", tokens_per_second=_TOKENS / (time.monotonic() - begun))
        engine.close()
    except UhlmError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
