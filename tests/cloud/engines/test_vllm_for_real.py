"""vLLM itself behind the gateway, beside llama.cpp with the same weights: `make test-vllm`.

Both have the shipped LLM's numbers as 32-bit floats, keys and values too, and a thread.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import uhlm_edge
from uhlm_edge.cloud.engines.http import JsonClient
from uhlm_edge.cloud.engines.vllm import VllmUpstream
from uhlm_edge.common.errors import EngineError, ModelError
from uhlm_edge.lm.engines.llama import LlamaContext
from uhlm_edge.lm.engines.llama_model import LlamaModel
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.lm.engines.protocol import Work
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import Sampler

from ...commands import COMMAND, RunningVerifier, environment, run, verifier
from ...requantise import requantised
from .real import N_CTX, TOP, RealVllm
from .servers import KEY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DATA = Path(uhlm_edge.__file__).parent / "common" / "data"
# llama.cpp's own 16-bit keys and values, and its flash attention, each move a probability by .0008.
ONE = EngineOptions(
    n_threads=1, n_threads_batch=1, n_ctx=1024,
    cache_type_k="f32", cache_type_v="f32", flash_attention="off",
)  # fmt: skip
NEAR = 1e-4  # of a probability
STRATEGIES = ["cloud", "hlm", "uhlm", "spec"]


class Beside(NamedTuple):
    """A verifier with vLLM behind it, and one with llama.cpp in it."""

    vllm: RunningVerifier
    llama: RunningVerifier
    home: Path
    prompts: Path


def rows_of_data(n: int) -> list[dict[str, Any]]:
    """Every so many of both kinds of evaluation text."""
    found = []
    for name in ("tasks-eval", "dialogues-eval"):
        lines = (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()
        found += [json.loads(line) for line in lines[:: len(lines) // (n // 2)][: n // 2]]
    return found


@pytest.fixture(scope="module")
def f32(real_vllm: RealVllm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return requantised("demo-llm", "ALL_F32", tmp_path_factory.mktemp("f32"))


@pytest.fixture(scope="module")
def beside(
    real_vllm: RealVllm, f32: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Beside]:
    home = tmp_path_factory.mktemp("home")
    key_file = home / "engine-key"
    key_file.touch(0o600)
    key_file.write_text(KEY + "\n")
    config = home / "verifier.toml"
    config.write_text(
        f'[verifier.upstream]\ntop = {TOP}\nkey_file = "{key_file}"\n'
        '[verifier.engine]\ncache_type_k = "f32"\ncache_type_v = "f32"\nflash_attention = "off"\n'
    )
    prompts = home / "prompts.jsonl"
    kept = [{"messages": row["messages"]} for row in rows_of_data(40)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in kept))
    settings = ["--config", str(config)]
    flags = ["--engine", "vllm", "--upstream", real_vllm.url]
    with ExitStack() as stack:
        gateway = stack.enter_context(verifier(home, 0, "", *settings, *flags))
        llama = stack.enter_context(verifier(home, 0, "", *settings, "--model", str(f32)))
        yield Beside(gateway, llama, home, prompts)


def test_probabilities_are_those_of_llama_cpp(
    real_vllm: RealVllm, f32: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream = VllmUpstream(JsonClient(real_vllm.url, KEY), TOP)
    assert (upstream.name, upstream.n_ctx) == ("demo-llm", N_CTX - 1)
    model = LlamaModel(f32, ONE)
    context = LlamaContext(model, ONE, 1024, 1, max_rows=64)
    samplers = [Sampler(temperature=t, top_k=40, top_p=1.0) for t in (1.0, 0.6)]
    worst, n_rows, same = 0.0, 0, 0
    for row in rows_of_data(40):
        ids = model.vocab.tokenize("\n".join(m["content"] for m in row["messages"]))[-400:]
        n = min(len(ids), 6)
        context.truncate(0)
        (true,) = context.decode([Work(0, ids, n)])
        for (told, log_probs), logits in zip(upstream.rows(ids, n), true, strict=True):
            assert len(told) == TOP
            ours = np.full(len(logits), -np.inf, dtype=np.float32)
            ours[told] = log_probs
            for sampler in samplers:
                p, q = sampler.probs(Row(ours)), sampler.probs(Row(logits))
                worst = max(worst, float(np.abs(p - q).max()))
            same += set(told[:40]) == set(np.argsort(-logits)[:40])
            n_rows += 1
    context.close()
    model.close()
    with capsys.disabled():
        print(f"\n{n_rows} rows: probabilities differ by {worst:.1e}, {same} with the same 40 ids")
    assert worst < NEAR


@pytest.mark.parametrize("name", STRATEGIES)
def test_greedy_texts_are_those_of_llama_cpp(
    name: str, beside: Beside, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for which, running in (("vllm", beside.vllm), ("llama", beside.llama)):
        out = tmp_path / f"{which}.jsonl"
        # A seed, because u is measured by draws.
        asked = ["--strategy", name, "--seed", "1", "--temperature", "0", "--max-tokens", "24"]
        result = run(
            ["run", "--prompts", str(beside.prompts), "--out", str(out), "--cloud", running.url,
             "--require-cloud", *asked],
            beside.home, timeout=900.0,
        )  # fmt: skip
        assert result.code == 0, result.err
        answers = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
        assert sum(answer["stats"]["unverified"] for answer in answers) == 0
        texts.append([answer["text"] for answer in answers])
    ours, theirs = texts
    assert len(ours) == len(theirs) == 40
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    with capsys.disabled():
        print(f"\n{name}: {equal} of {len(ours)} greedy texts are the same")
    assert ours == theirs


def test_the_prefix_cache_is_used_for_a_long_text_and_many_rows(real_vllm: RealVllm) -> None:
    client = JsonClient(real_vllm.url, KEY)
    upstream = VllmUpstream(client, 20)
    ids = [1, *range(300, 620)]
    first = upstream.rows(ids, 1)
    hits = cached(real_vllm)
    again = upstream.rows(ids, 4)
    assert cached(real_vllm) - hits >= 4 * 256
    np.testing.assert_allclose(again[-1].log_probs, first[0].log_probs, atol=1e-3)


def cached(real: RealVllm) -> float:
    """Ids that vLLM found in its prefix cache so far."""
    with urllib.request.urlopen(f"{real.url}/metrics") as page:  # noqa: S310 - our own server
        lines = page.read().decode().splitlines()
    (line,) = [one for one in lines if one.startswith("vllm:prefix_cache_hits_total{")]
    return float(line.split()[-1])


def test_what_it_refuses_is_one_line(real_vllm: RealVllm) -> None:
    client = JsonClient(real_vllm.url, KEY)
    with pytest.raises(ModelError, match=rf"--max-logprobs {TOP + 1}.*max allowed: {TOP}"):
        VllmUpstream(client, TOP + 1)
    with pytest.raises(ModelError, match="does not serve other: it has demo-llm"):
        VllmUpstream(client, 20, "other")
    with pytest.raises(EngineError, match=r"HTTP 401: Unauthorized"):
        VllmUpstream(JsonClient(real_vllm.url, "sk-wrong"), 20)
    upstream = VllmUpstream(client, 20)
    with pytest.raises(EngineError, match=r"HTTP 400: .*8192 is out of vocab"):
        upstream.rows([1, 8192], 1)
    with pytest.raises(EngineError, match=r"HTTP 400: .*(max_tokens|maximum context length)"):
        upstream.rows([5] * N_CTX, 1)
    assert len(upstream.rows([5] * (N_CTX - 1), 1)) == 1


def test_a_question_that_was_given_up_does_no_harm(real_vllm: RealVllm) -> None:
    text = [1, *range(1000, 1400)]
    hasty = VllmUpstream(JsonClient(real_vllm.url, KEY), 20)
    hasty._client = JsonClient(real_vllm.url, KEY, timeout=0.005)
    with pytest.raises(EngineError, match="does not answer"):
        hasty.rows(text, 8)
    patient = VllmUpstream(JsonClient(real_vllm.url, KEY), 20)
    assert len(patient.rows(text, 8)) == 8


def test_how_fast_it_is_beside_llama_cpp(
    beside: Beside, real_vllm: RealVllm, capsys: pytest.CaptureFixture[str]
) -> None:
    found: dict[str, list[tuple[float, float]]] = {"vllm": [], "llama": []}
    shares = []
    for _ in range(3):
        for which, running in (("vllm", beside.vllm), ("llama", beside.llama)):
            flags = ["--devices", "1", "--tokens-per-s", "0", "--upload-rate", "1", "--duration",
                     "6", "--format", "json", "--cloud", running.url]  # fmt: skip
            result = run(["bench", "load", *flags], beside.home, timeout=300.0)
            assert result.code == 0, result.err
            told = json.loads(result.out)
            row = (told["rows"] if isinstance(told, dict) else told)[-1]
            assert row["errors"] == 0
            found[which].append((row["calls_per_s"], row["p50_ms"]))
        shares.append(found["vllm"][-1][0] / found["llama"][-1][0])
    upstream = VllmUpstream(JsonClient(real_vllm.url, KEY), TOP)
    times = []
    for n in range(60, 120):
        begun = time.perf_counter()
        upstream.rows([1, *range(700, 700 + n)], 1)
        times.append(time.perf_counter() - begun)
    with capsys.disabled():
        for which, rounds in found.items():
            calls, p50 = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(f"\n{which}: {calls:.1f} calls/s, p50 {p50:.0f} ms", end="")
        print(f"\nratio of calls/s {statistics.median(shares):.2f} ({min(shares):.2f} to "
              f"{max(shares):.2f}); a row of vLLM, not through the verifier: median "
              f"{1e3 * statistics.median(times):.0f} ms")  # fmt: skip


def test_a_server_killed_in_the_middle_leaves_the_device_to_itself(
    beside: Beside, real_vllm: RealVllm
) -> None:
    asked = ["--strategy", "hlm", "--no-pipelined", "--json", "--cloud", beside.vllm.url]
    with subprocess.Popen(
        [*COMMAND, "run", "I would like to book a table for two in Albany tonight.", *asked],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(beside.home),
    ) as device:  # fmt: skip
        assert device.stdout is not None
        lines = [device.stdout.readline()]
        real_vllm.kill()
        rest, err = device.communicate()
    assert device.returncode == 0, err
    events = [json.loads(line) for line in [*lines, *rest.splitlines()]]
    unverified = [event["unverified"] for event in events if event["event"] == "token"]
    assert not unverified[0]
    assert unverified[-1]
    assert "does not answer" in events[-1]["stats"]["offline_reason"]
    assert JsonClient(beside.vllm.url).get("/health")  # the gateway itself goes on
