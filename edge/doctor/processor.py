"""Processor, build, C++ runtime and model: does what was compiled run here, and run well?"""

from __future__ import annotations

import re
from pathlib import Path

from ...common.machine import Machine
from ...lm.engines.llama_files import has_own_cpp_runtime, installed_version
from .finding import Finding
from .trial import Trial

# What llama.cpp calls a feature, and what the kernel does.
_ARM = {"DOTPROD": "asimddp", "FP16_VA": "fphp", "MATMUL_INT8": "i8mm", "SVE": "sve"}
_X86 = {
    "SSSE3": "ssse3", "AVX": "avx", "AVX2": "avx2", "F16C": "f16c", "FMA": "fma", "BMI2": "bmi2",
    "AVX_VNNI": "avx_vnni", "AVX512": "avx512f", "AVX512_VBMI": "avx512vbmi",
    "AVX512_VNNI": "avx512_vnni", "AVX512_BF16": "avx512_bf16",
}  # fmt: skip


def compiled(system_info: str) -> set[str]:
    """The features that a build uses: "CPU : NEON = 1 | DOTPROD = 1" -> {"NEON", "DOTPROD"}."""
    return {name for name, value in re.findall(r"(\w+) = (\d+)", system_info) if value != "0"}


def cmake_flags(machine: Machine) -> str:
    """The flags that fit llama.cpp to this machine when it is compiled on it."""
    flags = ["-DGGML_NATIVE=ON", "-DLLAVA_BUILD=OFF"]
    if machine.board and re.search("Jetson|Orin", machine.board):
        architecture = 87 if "Orin" in machine.board else 72 if "Xavier" in machine.board else 53
        flags += ["-DGGML_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={architecture}"]
    return " ".join(flags)


def rebuild(machine: Machine, environment: str = "") -> str:
    """The command that compiles llama-cpp-python anew for this machine."""
    wanted = installed_version() or "0.3.36"
    environment = f"{environment} " if environment else ""
    return (
        f'{environment}CMAKE_ARGS="{cmake_flags(machine)}" python -m pip install --force-reinstall '
        f"--no-deps --no-cache-dir --no-binary llama-cpp-python llama-cpp-python=={wanted}"
    )


def check_build(machine: Machine, trial: Trial) -> Finding:
    """Compare what the build uses with what the processor has, by what happened and by name."""
    system_info = str(trial.facts.get("system_info", ""))
    names = _ARM if machine.architecture == "aarch64" else _X86
    used = compiled(system_info)
    facts = {"system_info": system_info or None, "features": sorted(machine.features)}
    advice = f"compile it here: {rebuild(machine)}"
    if trial.signal == "SIGILL":
        text = "this build of llama.cpp uses instructions that the processor lacks"
        return Finding("processor", "fail", f"{text} (step: {trial.step})", advice, facts)
    if not used or not machine.features:
        missing = "the build does not say what it uses" if not used else ""
        text = missing or "the processor does not say what it has"
        return Finding("processor", "warn", f"{text}; nothing to compare", "", facts)
    lacking = [n for n, kernel in names.items() if n in used and kernel not in machine.features]
    if lacking:
        text = f"this build uses {', '.join(lacking)}, which the processor lacks"
        return Finding("processor", "fail", text, advice, facts)
    unused = [n for n, kernel in names.items() if n not in used and kernel in machine.features]
    if unused:
        text = f"the processor has {', '.join(unused)}, and this build does not use it: slower"
        return Finding("processor", "warn", text, advice, facts)
    used_names = ", ".join(n for n in names if n in used) or "the baseline"
    text = f"{machine.architecture}, build fits: {used_names}"
    return Finding("processor", "ok", text, "", facts)


def check_runtime(machine: Machine, folder: Path | None) -> Finding:
    """Is llama.cpp installed, and does it share its C++ runtime with the rest of the process?"""
    if folder is None:
        advice = f"install it: {rebuild(machine)}"
        return Finding("C++ runtime", "fail", "llama-cpp-python is not installed", advice)
    own = has_own_cpp_runtime(folder)
    if own is None:
        return Finding("C++ runtime", "warn", f"no libggml-base in {folder}: not looked at")
    if own:
        command = rebuild(machine, "CC=/usr/bin/gcc CXX=/usr/bin/g++ CUDAHOSTCXX=/usr/bin/g++")
        text = (
            "llama.cpp was linked with a libstdc++ of its own: a program that imports numpy before "
            "llama_cpp crashes when it loads a model (uhlm-edge imports llama_cpp first)"
        )
        advice = f"compile it with the system's compiler: {command}"
        return Finding("C++ runtime", "warn", text, advice, {"own_runtime": True})
    return Finding("C++ runtime", "ok", "shared with the system", "", {"own_runtime": False})


def check_speed(machine: Machine, trial: Trial) -> Finding:
    """Did the model load and write, how fast, and on what?"""
    if not trial.finished:
        advice = "see the findings above"
        if trial.signal == "SIGSEGV":
            advice = f"compile llama.cpp with the system's compiler: {rebuild(machine)}"
        elif trial.signal == "SIGKILL":
            advice = "the kernel ended it, mostly for lack of memory: a smaller model or context"
        return Finding("model", "fail", f"{trial.step}: {trial.fault}", advice, trial.facts)
    speed = float(trial.facts.get("tokens_per_second", 0.0))
    backend = str(trial.facts.get("backend", ""))
    facts = {k: trial.facts[k] for k in ("tokens_per_second", "load_seconds", "backend")}
    text = f"loads and writes {speed:.3g} tokens/s on {backend}"
    is_jetson = bool(machine.board and re.search("Jetson|Orin", machine.board))
    if is_jetson and not trial.facts.get("supports_gpu"):
        text += "; the GPU is not used: this build has no CUDA"
        return Finding("model", "warn", text, f"compile it here: {rebuild(machine)}", facts)
    return Finding("model", "ok", text, "", facts)
