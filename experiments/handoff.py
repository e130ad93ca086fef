"""Accuracy over what goes to the cloud: whole replies (`handoff`) beside tokens (`uhlm`).

`uhlm-edge serve --model demo-llm --strategy local` is the endpoint; then
`python -m uhlm_edge.experiments.handoff TASKS URL OUT.json --limit 60`
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..calibrate.handoff import choose, curve, measure, read_rows
from ..configs.layers import load_config
from ..edge.api.hybrid import Hybrid
from ..edge.link.in_process import load_partner
from ..edge.link.openai import OpenAiEndpoint

__all__ = ["compare"]

THRESHOLDS = (0.073, 0.3, 0.6)


def compare(tasks: Path, url: str, limit: int, window: int = 24) -> dict[str, Any]:
    """Both on the same tasks and seeds. `uhlm` asks a verifier in this process."""
    config = load_config({("chat", "max_tokens"): 128}, "demo", environment={}).config
    rows = read_rows(tasks)[:limit]
    with Hybrid(config, link=load_partner(config), environment={}) as hybrid:
        measured = list(measure(hybrid, OpenAiEndpoint(url), rows, window))
        by_token = []
        for threshold in THRESHOLDS:
            right = asked = tokens = 0
            for number, (messages, answer) in enumerate(rows):
                reply = hybrid.generate(
                    messages, strategy="uhlm", threshold=threshold, seed=1 + number
                ).read()
                right += reply.text.strip() == answer.strip()
                asked += reply.stats.from_llm
                tokens += reply.stats.tokens
            point = {"threshold": threshold, "share": asked / tokens, "accuracy": right / len(rows)}
            by_token.append(point)
    points = curve(measured)
    return {
        "tasks": len(rows),
        "window": window,
        "device": sum(row.device_right for row in measured) / len(measured),
        "endpoint": sum(row.cloud_right for row in measured) / len(measured),
        "handoff": [asdict(point) for point in points],
        "chosen": asdict(choose(points)),
        "uhlm": by_token,
    }


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("url")
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=int, default=60)
    given = parser.parse_args()
    result = compare(given.tasks, given.url, given.limit)
    given.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    _main()
