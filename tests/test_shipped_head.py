"""The shipped reward heads, run on replies to text that they have not seen."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from uhlm_edge.bench.harness.shadow_verifier import ROWS, ShadowVerifier
from uhlm_edge.calibrate.scores import auroc
from uhlm_edge.cloud.options import VerifierOptions
from uhlm_edge.cloud.service import load_service
from uhlm_edge.common.keys import Keys
from uhlm_edge.common.prompts import read_prompts, shipped_prompts
from uhlm_edge.configs.config import Config
from uhlm_edge.edge.chat.assemble import assemble
from uhlm_edge.edge.link.in_process import LocalLink
from uhlm_edge.lm.engines.llama import LlamaEngine
from uhlm_edge.lm.sampling import Sampler
from uhlm_edge.models.shipped import path_of

pytestmark = pytest.mark.slow

AT_ONE = Sampler(temperature=1.0, top_k=0, top_p=1.0)


@pytest.fixture(scope="module")
def reader() -> Iterator[ShadowVerifier]:
    engine = LlamaEngine(path_of("demo-llm"), max_rows=ROWS)
    yield ShadowVerifier(engine, AT_ONE)
    engine.close()


@pytest.mark.parametrize(
    ("text", "least", "rejected"), [("tasks", 0.96, (0.002, 0.05)), ("dialogues", 0.75, (0.1, 0.4))]
)
def test_the_shipped_head_tells_rejected_drafts_from_others(
    reader: ShadowVerifier, text: str, least: float, rejected: tuple[float, float]
) -> None:
    """On 18 replies that the device writes alone, against the LLM's own verdicts."""
    config = Config.model_validate(
        {
            "strategy": {"name": "reward", "threshold": 1.0, "calibration": text},
            "sampler": AT_ONE.model_dump(),
            "chat": {"max_tokens": 32, "seed": 1},
        }
    )
    link = LocalLink(load_service(path_of("demo-llm"), VerifierOptions(), Keys()))
    cases = islice(read_prompts(shipped_prompts(f"{text}-eval")), 18)
    rewards, betas = list[float](), list[float]()
    with assemble(config, lambda told: None, link) as assistant:
        for case in cases:
            for _ in assistant.answer(case.messages):
                pass
            loop = assistant.loop
            assert loop is not None
            found = reader.betas(
                reader.prompt(case.messages), [t.id for t in loop.tokens], loop.text.proposed
            )
            for index, beta in found.items():
                reward = loop.text.proposed[index].reward
                assert reward is not None
                rewards.append(reward)
                betas.append(beta)
    expected, beta_of = np.array(rewards), np.array(betas)
    assert len(betas) > 250
    assert rejected[0] < beta_of.mean() < rejected[1]  # there is something to tell
    assert auroc(1.0 - expected, beta_of) >= least
    assert abs((1.0 - expected).mean() - beta_of.mean()) < 0.08
    assert link.traffic.calls == 0  # nobody was asked: the head said it from the rows alone
