"""What the doctor says of made-up boards, and of the real build, model and verifier here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from uhlm_edge.common.machine import read_machine
from uhlm_edge.edge.device.thermal import read_heat
from uhlm_edge.edge.doctor.board import check_clock, check_disk, check_heat, check_memory
from uhlm_edge.edge.doctor.command import Doctor
from uhlm_edge.edge.doctor.finding import Finding, render, worst
from uhlm_edge.edge.doctor.processor import check_build, check_runtime, check_speed, rebuild
from uhlm_edge.edge.doctor.trial import Trial, try_model
from uhlm_edge.edge.doctor.verifier import check_verifier, check_vocabulary, measure
from uhlm_edge.lm.engines.llama_files import has_own_cpp_runtime
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.lm.gguf.check import check
from uhlm_edge.models import shipped

from ...commands import DEVICE_MODEL, run_here, verifier, with_another_vocabulary
from .boards import board, put, vcgencmd

DOTPROD = "CPU : NEON = 1 | ARM_FMA = 1 | FP16_VA = 1 | DOTPROD = 1 | LLAMAFILE = 1"
PLAIN = "CPU : NEON = 1 | ARM_FMA = 1 | LLAMAFILE = 1"


def trial(system_info: str = DOTPROD, **more: Any) -> Trial:
    facts = {
        "system_info": system_info,
        "tokens_per_second": 9.0,
        "load_seconds": 1.0,
        "backend": "CPU",
    }
    return Trial("done", facts | more)


def test_a_pi_5_s_build_on_a_pi_4_fails_with_the_command_that_builds_the_right_one(
    tmp_path: Path,
) -> None:
    pi4 = read_machine(board(tmp_path, "pi4"))
    by_name = check_build(pi4, trial(DOTPROD))
    killed = check_build(pi4, Trial("load", {}, "killed by SIGILL", "SIGILL"))
    for finding in (by_name, killed):
        assert finding.level == "fail"
        assert 'CMAKE_ARGS="-DGGML_NATIVE=ON' in finding.advice
        assert "--no-binary llama-cpp-python llama-cpp-python==" in finding.advice
    assert "DOTPROD" in by_name.text


def test_a_pi_4_s_build_on_a_pi_5_runs_and_is_said_to_be_slower(tmp_path: Path) -> None:
    finding = check_build(read_machine(board(tmp_path, "pi5")), trial(PLAIN))
    assert finding.level == "warn"
    assert "DOTPROD" in finding.text
    assert check_build(read_machine(tmp_path), trial(DOTPROD)).level == "ok"


def test_a_jetson_without_cuda_is_told_how_to_get_it(tmp_path: Path) -> None:
    jetson = read_machine(board(tmp_path, "jetson"))
    assert "-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=87" in rebuild(jetson)
    finding = check_speed(jetson, trial(supports_gpu=False))
    assert finding.level == "warn"
    assert "no CUDA" in finding.text
    assert check_speed(jetson, trial(supports_gpu=True)).level == "ok"


def test_a_runtime_of_its_own_is_found_by_what_the_library_names(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert has_own_cpp_runtime(tmp_path) is None
    library = tmp_path / "libggml-base.so"
    library.write_bytes(b"\x7fELF ... libm.so.6\0libc.so.6\0")
    trap = check_runtime(machine, tmp_path)
    assert trap.level == "warn"
    assert "CXX=/usr/bin/g++" in trap.advice
    library.write_bytes(b"\x7fELF ... libstdc++.so.6\0libc.so.6\0")
    assert check_runtime(machine, tmp_path).level == "ok"
    assert check_runtime(machine, None).level == "fail"


def test_throttling_now_and_since_boot_are_told_apart_with_what_helps(tmp_path: Path) -> None:
    root = board(tmp_path, "pi5")
    hot = check_heat(read_heat(root, vcgencmd("throttled=0x4")))
    before = check_heat(read_heat(root, vcgencmd("throttled=0x10000")))
    cool = check_heat(read_heat(root, vcgencmd("throttled=0x0")))
    assert hot.level == "warn"
    assert "now: throttled" in hot.text
    assert "cool it" in hot.advice
    assert "since it started: under-voltage" in before.text
    assert "power supply" in before.advice
    assert cool.level == "ok"
    put(root, "sys/class/thermal/thermal_zone0/temp", "84000")
    assert check_heat(read_heat(root, vcgencmd("throttled=0x0"))).level == "warn"


def test_a_model_larger_than_the_board_s_memory_fails_before_it_is_loaded(tmp_path: Path) -> None:
    header = check(DEVICE_MODEL)
    pi4 = read_machine(board(tmp_path, "pi4"))
    assert check_memory(pi4, header, EngineOptions(), 1024).level == "ok"
    large = replace(header, file_size=5 << 30)
    assert check_memory(pi4, large, EngineOptions(), 1024).level == "fail"
    now = replace(header, file_size=(pi4.available or 0) + 1)
    assert check_memory(pi4, now, EngineOptions(), 1024).level == "warn"


def test_a_full_disk_and_a_clock_in_the_past_are_found(tmp_path: Path) -> None:
    assert check_disk(tmp_path / "not" / "there", lambda _: 10 << 30).level == "ok"
    assert check_disk(tmp_path, lambda _: 500 << 20).level == "warn"
    assert check_disk(tmp_path, lambda _: 50 << 20).level == "fail"
    file = tmp_path / "installed"
    file.touch()
    assert check_clock(tmp_path, file, lambda: 0.0).level == "fail"
    assert check_clock(tmp_path, file).level == "ok"
    (tmp_path / "run/systemd/timesync").mkdir(parents=True)
    assert check_clock(tmp_path, file).level == "warn"


def test_the_worst_finding_decides_and_advice_follows_its_finding() -> None:
    good, bad = Finding("a", "ok", "fine"), Finding("b", "fail", "broken\x1b[2J", "mend it")
    assert worst([good]) == "ok"
    assert worst([good, bad]) == "fail"
    lines = render([good, bad]).splitlines()
    assert lines[2].endswith("-> mend it")
    assert "\x1b" not in render([bad])


def test_the_trial_runs_the_real_model_and_says_what_the_build_uses() -> None:
    result = try_model(DEVICE_MODEL, EngineOptions(n_threads=1))
    assert result.finished, result.fault
    assert result.facts["tokens_per_second"] > 0
    finding = check_build(read_machine(), result)
    assert finding.level in ("ok", "warn"), finding


def test_a_crash_of_the_trial_is_a_finding(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    result = try_model(broken, EngineOptions())
    assert not result.finished
    assert check_speed(read_machine(), result).level == "fail"
    assert "broken.gguf" in result.fault


def test_a_whole_board_is_examined_and_a_wrong_configuration_does_not_stop_it(
    tmp_path: Path,
) -> None:
    root = board(tmp_path / "pi5", "pi5")
    environment = {"UHLM_CHAT_SEED": "one", "HOME": str(tmp_path)}
    doctor = Doctor(
        root, vcgencmd("throttled=0x0"), environment, lambda *_: trial(fingerprint=[8192, "x"])
    )
    findings = {f.check: f for f in doctor.examine({}, None, None)}
    assert findings["configuration"].level == "fail"
    assert "chat.seed" in findings["configuration"].text
    assert findings["board"].text.startswith("Raspberry Pi 5")
    assert findings["processor"].level == "ok"
    assert findings["threads"].facts["cores"] == 4
    assert {"heat", "energy", "disk", "clock", "memory", "verifier", "calibration"} <= set(findings)


@pytest.mark.slow
def test_a_wrong_key_and_no_verifier_are_told_from_a_right_one(tmp_path: Path) -> None:
    path = shipped.path_of("demo-llm")
    info = None
    with verifier(tmp_path, 0, "secret-0123456789abcdef", "--model", str(path)) as running:
        found = measure(running.url, "secret-0123456789abcdef", None, 2.0)
        info = found.info
        good = check_verifier(found, required=False)
        assert good.level == "ok"
        assert good.facts["round_trip_ms"] > 0
        refused = run_here(
            ["doctor", "--cloud", running.url, "--json"], tmp_path, more={"UHLM_API_KEY": "wrong"}
        )
        assert "refuses the key" in refused.out
        by_command = run_here(
            ["doctor", "--cloud", running.url, "--json"],
            tmp_path,
            more={"UHLM_API_KEY": "secret-0123456789abcdef"},
        )
        assert by_command.code == 0, by_command.out + by_command.err
        checks = {f["check"]: f for f in json.loads(by_command.out)["findings"]}
        assert checks["verifier"]["facts"]["level"] == 3
        assert checks["vocabulary"]["level"] == "ok"
        assert checks["calibration"]["level"] == "ok"
        other = with_another_vocabulary(tmp_path / "other.gguf")
        mismatch = run_here(
            ["doctor", "--cloud", running.url, "--model", str(other)],
            tmp_path,
            more={"UHLM_API_KEY": "secret-0123456789abcdef"},
        )
        assert mismatch.code == 1
        assert "fail  vocabulary" in mismatch.out
    assert check_vocabulary(info, None).level == "warn"
    gone = run_here(["doctor", "--cloud", running.url], tmp_path)
    assert gone.code == 0
    assert "warn  verifier" in gone.out


def test_a_runtime_of_its_own_has_llama_cpp_loaded_before_numpy(tmp_path: Path) -> None:
    package = tmp_path / "llama_cpp"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").write_text("import sys\nprint('numpy' in sys.modules)\n")
    code = "from uhlm_edge.lm.engines.llama_files import prepare_process as f; f(); import numpy"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    for names, said in ((b"libc.so.6", "False\n"), (b"libstdc++.so.6", "")):
        (package / "lib" / "libggml-base.so").write_bytes(b"\x7fELF" + names)
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        assert done.stdout == said
