"""What llama.cpp is told before it loads a model."""

from __future__ import annotations

import pytest
from llama_cpp import llama_cpp as ll

from uhlm_edge.lm.engines.llama_build import model_params


@pytest.mark.parametrize(("features", "rearranged"), [("AMX_INT8 = 1", False), ("AVX2 = 1", True)])
def test_weights_are_rearranged_unless_the_build_would_do_it_for_amx(
    features: str, rearranged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ll, "llama_print_system_info", lambda: f"CPU : {features} | ".encode())
    params = model_params(3)
    assert bool(params.use_extra_bufts) is rearranged
    assert params.n_gpu_layers == 3
