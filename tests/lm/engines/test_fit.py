"""What is chosen for a model on a machine where nothing is given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from uhlm_edge.common.machine import Machine
from uhlm_edge.lm.engines.fit import LONGEST_CONTEXT, alone, chosen, fit
from uhlm_edge.lm.engines.llama import LlamaEngine
from uhlm_edge.lm.engines.memory import cache_bytes, need
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.lm.gguf.check import check
from uhlm_edge.models import shipped

SLM = check(shipped.path_of("demo-slm"))
LONG = {**SLM.metadata, "llama.context_length": 131072}
LARGE = replace(SLM, metadata=LONG, file_size=670 << 20)
GIB = 1 << 30


def machine(cores: int, gigabytes: float = 16) -> Machine:
    memory = int(gigabytes * GIB)
    return Machine(None, "aarch64", frozenset(), 2 * cores, cores, memory, memory)


def test_a_large_model_gets_a_thread_per_core_and_a_tiny_one_a_single_thread() -> None:
    large, tiny = fit(EngineOptions(), LARGE, machine(4)), fit(EngineOptions(), SLM, machine(16))
    assert (large.n_threads, large.n_threads_batch) == (4, 4)
    assert (tiny.n_threads, tiny.n_threads_batch) == (1, 1)
    many = fit(EngineOptions(), LARGE, machine(64))
    assert (many.n_threads, many.n_threads_batch) == (16, 42)


def test_two_models_on_one_machine_get_half_of_the_cores_each() -> None:
    for cores, half in ((1, 1), (2, 1), (4, 2), (6, 3)):
        assert fit(EngineOptions(processes=2), LARGE, machine(cores)).n_threads == half


def test_what_is_given_stays() -> None:
    given = EngineOptions(n_threads=7, n_threads_batch=9, n_ctx=100_000, n_gpu_layers=3)
    assert fit(given, LARGE, machine(2, 0.5), gpu=True) == given


def test_the_context_is_what_a_chat_needs_and_what_memory_holds() -> None:
    assert fit(EngineOptions(), LARGE, machine(4)).n_ctx == LONGEST_CONTEXT
    assert fit(EngineOptions(), SLM, machine(4)).n_ctx == 1024  # as it was trained
    assert fit(EngineOptions(), LARGE, machine(4, 0.9)).n_ctx == 512  # the weights fill it
    eight = fit(EngineOptions(), LARGE, machine(4, 1.0), contexts=8)
    assert eight.n_ctx <= fit(EngineOptions(), LARGE, machine(4, 1.0)).n_ctx
    assert (need(LARGE, eight, eight.n_ctx, 8) or 0) <= 0.7 * GIB or eight.n_ctx == 512


def test_layers_go_to_a_gpu_if_there_is_one() -> None:
    assert fit(EngineOptions(), LARGE, machine(4), gpu=True).n_gpu_layers == -1
    assert fit(EngineOptions(), LARGE, machine(4), gpu=False).n_gpu_layers == 0
    assert fit(EngineOptions(n_gpu_layers=0), LARGE, machine(4), gpu=True).n_gpu_layers == 0


def test_the_choice_is_told_in_words() -> None:
    one = EngineOptions(n_threads=1, n_threads_batch=1, n_ctx=1024)
    assert chosen(one) == "1 thread, context of 1,024"
    many = EngineOptions(n_threads=4, n_threads_batch=8, n_ctx=8192)
    assert chosen(many) == "4 threads (8 for the prompt), context of 8,192"


@pytest.mark.parametrize("cache", ["f16", "q8_0"])
def test_the_cache_has_the_bytes_that_llama_cpp_says(
    cache: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = EngineOptions.model_validate(
        {"n_ctx": 512, "cache_type_k": cache, "cache_type_v": cache, "flash_attention": "on"}
    )
    with caplog.at_level("DEBUG", "uhlm_edge.llama"):
        LlamaEngine(shipped.path_of("demo-slm"), options).close()
    said = [line for line in caplog.messages if "KV buffer size" in line]
    assert said
    mebibytes = float(said[-1].split("=")[1].split()[0])
    assert (cache_bytes(SLM, options, 512) or 0) / 2**20 == pytest.approx(mebibytes, abs=0.01)


@pytest.mark.parametrize(
    ("given", "flash"),
    [
        ({"n_gpu_layers": 0}, "off"),
        ({"n_gpu_layers": -1}, "auto"),
        ({"n_gpu_layers": 0, "flash_attention": "on"}, "on"),
        ({"n_gpu_layers": 0, "cache_type_v": "q8_0"}, "auto"),
    ],
)
def test_one_sequence_on_a_processor_has_no_flash_attention_unless_given_or_needed(
    given: dict[str, object], flash: str
) -> None:
    assert alone(EngineOptions.model_validate(given)).flash_attention == flash
