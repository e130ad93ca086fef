"""What an upload would weigh in other formats.

Only the benchmark knows these formats; the product sends `Distribution`s. The tests enumerate what
a format that cuts q after the draw settles: it does not follow the LLM.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...common.prompts import Case, Message
from ...edge.decode.loop import ReplyLoop
from ...lm.row import Row
from ...lm.sampling import Probs, Sampler
from ..harness.scoring import Outcome
from ..harness.shadow_verifier import ShadowVerifier
from ..network.channel import published_bytes

CUT = 32
"""Ids that a top-k upload keeps."""

FORMATS = {
    "published": "every probability in 8 bits beside its index (arXiv 2412.12687)",
    f"top-{CUT} and uniform tail": "the largest probabilities so, the rest spread evenly (CU-HLM)",
    "JSON": "the full distribution as JSON numbers",
    "float16": "the full distribution, two bytes an id",
}

COLUMNS = (
    "uplink", "per_upload_median", "per_upload_p95", "wire_per_upload_median",
    "wire_per_upload_p95", "per_token", "wire_per_token",
)  # fmt: skip


def cut_bytes(vocabulary: int, k: int = CUT) -> int:
    """Bytes of k probabilities of 8 bits, each beside its index."""
    return math.ceil(min(k, vocabulary) * (8 + (vocabulary - 1).bit_length()) / 8)


def draft_bytes(probs: Probs) -> list[int]:
    """What one draft's distribution (V,) weighs in each of FORMATS, in their order."""
    n = len(probs)
    return [
        published_bytes(n),
        cut_bytes(n),
        len(json.dumps(probs.tolist(), separators=(",", ":"))),
        2 * n,
    ]


@dataclass
class Uploads:
    """Collects what each uploaded draft would have weighed.

    Args:
        reader: the device model once more, to see the full distribution behind a draft; outside
            the timed path.
        sampler: that of the session.
        system: the system message, "" for none.
    """

    reader: ShadowVerifier
    sampler: Sampler
    system: str = ""
    sizes: list[list[int]] = field(default_factory=list)

    def watch(self, case: Case, loop: ReplyLoop) -> None:
        """Take in a finished reply."""
        proposed = loop.text.proposed
        judged = [t for t in loop.tokens if t.accepted is not None and t.index in proposed]
        if not judged:
            return
        ids = [token.id for token in loop.tokens]
        system = [Message(role="system", content=self.system)] if self.system else []
        prompt = self.reader.prompt([*system, *case.messages])
        rows = self.reader.rows(prompt, ids)
        self.sizes += [draft_bytes(self.sampler.probs(Row(rows[token.index]))) for token in judged]


def uplink_rows(uploads: Uploads, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One row per format: bytes per upload and per generated id, without and with HTTP.

    Args:
        uploads: sizes of the other formats, of every uploaded draft.
        outcomes: what was really sent.
    """
    heads = [
        whole - body
        for outcome in outcomes
        for whole, body in zip(outcome.requests or (), outcome.bodies, strict=True)
    ]
    # Our own request line and headers are granted to the other formats too.
    header = round(sum(heads) / len(heads)) if heads else None
    tokens = sum(outcome.tokens for outcome in outcomes)
    sizes = np.array(uploads.sizes, dtype=np.int64).reshape(-1, len(FORMATS))
    rows = [
        _row(name, column.tolist(), None if header is None else (column + header).tolist(), tokens)
        for name, column in zip(FORMATS, sizes.T, strict=True)
    ]
    bodies = [size for outcome in outcomes for size in outcome.bodies]
    wires = [size for outcome in outcomes for size in outcome.requests or ()]
    return [*rows, _row("ours", bodies, wires or None, tokens)]


def _row(name: str, body: list[int], wire: list[int] | None, tokens: int) -> dict[str, Any]:
    def percentile(sizes: list[int] | None, share: int) -> float | None:
        return float(np.percentile(sizes, share)) if sizes else None

    return {
        "uplink": name,
        "per_upload_median": percentile(body, 50),
        "per_upload_p95": percentile(body, 95),
        "wire_per_upload_median": percentile(wire, 50),
        "wire_per_upload_p95": percentile(wire, 95),
        "per_token": sum(body) / tokens if tokens else None,
        "wire_per_token": sum(wire) / tokens if tokens and wire is not None else None,
        "uploads": len(body),
        "tokens": tokens,
    }
