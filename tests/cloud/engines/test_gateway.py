"""A verifier whose model runs elsewhere: the same replies, and what it cannot do is said."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from uhlm_edge.cloud.engines.context import UpstreamContext
from uhlm_edge.cloud.engines.upstream import open_upstream
from uhlm_edge.cloud.options import UpstreamOptions, VerifierOptions
from uhlm_edge.cloud.service import load_service
from uhlm_edge.cloud.verifier import Verifier
from uhlm_edge.common.errors import ConfigError
from uhlm_edge.common.keys import Keys
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import Sampler
from uhlm_edge.lm.targets import Weighted
from uhlm_edge.models import shipped
from uhlm_edge.wire.codec import OutOfRange
from uhlm_edge.wire.messages import Limits, Reply, Request, Settings, prefix_hash

from ...fakes import CLOUD, DEVICE, FakeContext
from . import servers

PROMPT = CLOUD.vocab.tokenize("hello")
SAMPLER = Sampler(temperature=0.8, top_k=20, top_p=0.97)


def call(seed: int, number: int, text: list[int], n_drafts: int, bonus: int) -> Request:
    """Everything from id 0 on: one skipped token, drafts of the device, and tokens asked for."""
    ids, qs = list(text), []
    for at in range(1 + n_drafts):
        q = SAMPLER.distribution(Row(DEVICE.row(ids)))
        qs.append(q)
        ids.append(q.draw(((seed + 1) * 0.377 + at * 0.31) % 1.0))
    return Request(
        number, 0, prefix_hash([]), ids, [qs[0].weight(ids[len(text)])], qs[1:], bonus,
        Settings(sampler=SAMPLER, seed=seed, origin=len(text)),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_replies_are_those_of_a_model_that_tells_every_logit(kind: str) -> None:
    whole = Verifier(FakeContext(CLOUD), 60, 4)
    verdicts = set()
    with servers.engine(kind) as engine:
        upstream = open_upstream(kind, engine.url, servers.KEY, 20)  # type: ignore[arg-type]
        context = UpstreamContext(upstream, CLOUD.vocab, 240, 4)
        gateway = Verifier(context, 60, 4)
        for seed in range(24):
            request = call(seed, seed + 1, PROMPT, 1 + seed % 3, seed % 2)
            ours, theirs = (v.verify(("", "s" * 32), request) for v in (whole, gateway))
            assert isinstance(ours, Reply)
            assert isinstance(theirs, Reply)
            assert theirs.betas == pytest.approx(ours.betas, abs=1e-5)
            assert replace(theirs, us=ours.us, betas=()) == replace(ours, betas=())
            verdicts.add((ours.accepted, len(ours.tokens)))
        context.close()
    assert len(verdicts) >= 4  # accepted, replaced and supplied in several ways


def test_a_sampler_that_looks_further_than_the_engine_tells_is_refused() -> None:
    limits = Limits(sampler_top_k=20)
    request = call(0, 1, PROMPT, 1, 0)
    assert request.settings is not None

    def asked(sampler: Sampler, weighted: bool = False) -> Request:
        target = Weighted() if weighted else Settings().target
        return replace(request, settings=Settings(sampler=sampler, target=target, origin=5))

    n_vocab = len(CLOUD.vocab)
    for sampler in (Sampler(top_k=0), Sampler(top_k=21)):
        with pytest.raises(OutOfRange, match="top_k from 1 to 20"):
            asked(sampler).check(limits, n_vocab)
        asked(sampler).check(Limits(), n_vocab)
    asked(Sampler(top_k=20)).check(limits, n_vocab)
    asked(Sampler(temperature=0.0, top_k=0)).check(limits, n_vocab)
    with pytest.raises(OutOfRange, match="top_k"):  # an ensemble mixes whole distributions
        asked(Sampler(temperature=0.0, top_k=0), weighted=True).check(limits, n_vocab)


def test_a_device_with_the_default_sampler_is_taken_by_default() -> None:
    request = replace(call(0, 1, PROMPT, 1, 0), settings=Settings(sampler=Sampler(), origin=5))
    request.check(Limits(sampler_top_k=UpstreamOptions().top), len(CLOUD.vocab))


def test_the_service_says_limit_and_model_of_the_engine(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(servers.KEY + "\n")
    key_file.chmod(0o600)
    for kind in ("vllm", "sglang"):
        with servers.engine(kind) as engine:
            upstream = UpstreamOptions(url=engine.url, key_file=key_file, top=10)
            options = VerifierOptions(runtime=kind, upstream=upstream, sessions=3)
            service = load_service(shipped.path_of("demo-llm"), options, Keys())
            info = service.info()
        assert (info.model, info.limits.sampler_top_k) == ("fake-llm", 10)
        assert info.n_ctx == servers.N_CTX - 1
        assert info.fingerprint[0] == len(service.vocab)
        assert kind in service.backend


def test_an_engine_without_a_url_is_a_line_not_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--upstream URL"):
        load_service(shipped.path_of("demo-llm"), VerifierOptions(runtime="vllm"), Keys())
    done = subprocess.run(
        [sys.executable, "-m", "uhlm_edge.cli", "cloud", "--engine", "vllm", "--port", "0",
         "--upstream", "http://127.0.0.1:9"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "does not answer" in done.stderr
    assert json.dumps(done.stdout) == '""'
