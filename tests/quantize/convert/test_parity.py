"""Converted files against transformers itself, on float32. Needs the extra `parity`.

The caches of keys and values are float32 and flash attention is off: llama.cpp's defaults round
keys and values to float16. One difference stays and is llama.cpp's own: its GELU is a table of
float16, so gemma is compared twice, with transformers' GELU as it is and with the same table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from uhlm_edge.quantize.convert.folder import convert

from ..tiny_models import Folder, ids_of
from .test_folder import CASES, run

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of two large packages, not ours
]


def table_gelu(x: Any) -> Any:
    """GELU through float16 in and out, as ggml's table has it."""
    at = x.half().float()
    y = 0.5 * at * (1 + torch.tanh(math.sqrt(2 / math.pi) * (at + 0.044715 * at**3)))
    rounded = y.half().float()
    return torch.where(x <= -10, torch.zeros_like(x), torch.where(x >= 10, x, rounded))


def reference(src: Path, ids: list[int], gelu: Callable[[Any], Any] | None) -> NDArray[Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        src, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    if gelu is not None:
        for layer in model.model.layers:
            layer.mlp.act_fn.forward = gelu
    with torch.no_grad():
        rows: NDArray[Any] = model(torch.tensor([ids])).logits[0].double().numpy()
    return rows


def for_transformers(folder: Folder) -> Folder:
    """transformers takes the pattern of gemma's layers from a list."""
    if folder.config["model_type"] == "gemma3_text":
        step = folder.config["sliding_window_pattern"]
        folder.config["layer_types"] = [
            "full_attention" if (layer + 1) % step == 0 else "sliding_attention"
            for layer in range(folder.config["num_hidden_layers"])
        ]
    return folder


def measure(name: str, path: Path, gelu: Callable[[Any], Any] | None = None) -> NDArray[Any]:
    folder = for_transformers(CASES[name]())
    src = folder.write(path / "hf")
    convert(src, path / "m.gguf", "F32")
    ids = ids_of(folder, 24)
    ours = run(path / "m.gguf", ids)
    theirs = reference(src, ids, gelu)[:, : ours.shape[1]]
    result: NDArray[Any] = np.abs(ours - theirs)
    print(
        json.dumps(
            {
                "case": name,
                "max": float(result.max()),
                "median": float(np.median(result)),
                "logits": float(np.abs(theirs).max()),
                "same top": bool((ours.argmax(1) == theirs.argmax(1)).all()),
            }
        )
    )
    return result


NO_GELU = [name for name in CASES if not name.startswith("gemma")]
GELU = [name for name in CASES if name.startswith("gemma")]


@pytest.mark.parametrize("name", NO_GELU)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    assert measure(name, tmp_path).max() < 1e-3


@pytest.mark.parametrize("name", GELU)
def test_gemma_differs_by_the_float16_table_of_gelu_and_by_nothing_else(
    name: str, tmp_path: Path
) -> None:
    as_it_is = measure(name, tmp_path / "exact")
    with_table = measure(name, tmp_path / "table", table_gelu)
    assert with_table.max() < 1e-3
    assert np.median(with_table) < np.median(as_it_is) / 5
    assert as_it_is.max() < 5e-3
