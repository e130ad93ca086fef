"""The one call between device and cloud, as bytes. Both sides import this module.

Positional MessagePack arrays; the same fields by name in JSON, for people with curl. Whatever comes
in is hostile until decoded here: sizes, types, ranges and sums are checked, and nothing is
allocated before its size is known to be allowed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from ..lm.sampling import TOTAL, Distribution
from .codec import (
    PREFIX_BYTES,
    SENT_PREFIX_BYTES,
    Malformed,
    OutOfRange,
    check_distribution,
    pack_ids,
    pack_q,
    prefix_hash,
    require,
    unpack_distribution,
    unpack_ids,
    unpack_q,
)
from .terms import VERSION, Info, Limits, Settings, first_line

__all__ = [
    "MEDIA_TYPE", "VERSION", "Conflict", "Info", "Limits", "Malformed", "OutOfRange", "Reply",
    "Request", "Settings", "Timing", "prefix_hash",
]  # fmt: skip

MEDIA_TYPE = "application/msgpack"
BINDING_BYTES = 8
_WRONG_VERSION = f"this verifier speaks version {VERSION} of the protocol; update the older side"


@dataclass(frozen=True)
class Request:
    """One call. `weights` are the rounded q(token) TOTAL of the last ids before the drafts, those
    that the device skipped; the last `len(drafts)` of `tokens` are drafts to judge.

    Args:
        id: 32-bit counter of calls in this session; every try of one call carries the same.
        start: ids before it are already held.
        prefix: blake2b-64 over them. Its first half travels, which finds a verifier that holds
            another text; the whole is in `binding`, which catches what the half lets pass.
        tokens: ids from `start` on.
        weights: of skipped tokens, each 1..TOTAL.
        drafts: what each draft was drawn from.
        bonus: how many tokens the LLM may add.
        settings: sent with `start` = 0, with every re-send, and when a reply begins.
    """

    id: int
    start: int
    prefix: bytes
    tokens: Sequence[int]
    weights: Sequence[int] = ()
    drafts: Sequence[Distribution] = ()
    bonus: int = 0
    settings: Settings | None = None

    def pack(self) -> bytes:
        """MessagePack: version, id, start, half of `prefix` and the ids (LEB128) in one field, how
        many are judged, what is told of q (`pack_q`), bonus, and the settings if there are any."""
        return self._packed

    def binding(self, session: str, held: bytes | None = None) -> bytes:
        """What a reply must carry to be the answer to this call and no other, 8 bytes.

        A hash over the session's id, all that is sent, and the whole hash of what is held: every
        session's first call is number 1 from id 0 on, so number and start alone say little.

        Args:
            session: its id.
            held: `prefix_hash` of what the verifier holds before `start`; None: `prefix`.
        """
        key = session.encode()[: hashlib.blake2b.MAX_KEY_SIZE]
        whole = self._packed + (self.prefix if held is None else held)
        return hashlib.blake2b(whole, digest_size=BINDING_BYTES, key=key).digest()

    @cached_property
    def _packed(self) -> bytes:
        fields = [
            VERSION,
            self.id,
            self.start,
            self.prefix[:SENT_PREFIX_BYTES] + pack_ids(self.tokens),
            len(self.drafts),
            pack_q(self.weights, self.tokens[len(self.tokens) - len(self.drafts) :], self.drafts),
            self.bonus,
        ]
        if self.settings is not None:
            fields.append(self.settings.pack())
        body: bytes = msgpack.packb(fields)
        return body

    @staticmethod
    def unpack(body: bytes, limits: Limits, n_vocab: int) -> Request:
        """Decode and check a MessagePack body.

        Raises:
            Malformed: it is not this protocol.
            OutOfRange: it is, with impossible values.
        """
        fields = _array(body)
        require(fields[:1] == [VERSION], Malformed, _WRONG_VERSION)
        require(len(fields) in (7, 8), Malformed, "not an array of 7 or 8")
        _, call, start, text, judge, q, bonus, settings = [*fields, None][:8]
        require(isinstance(text, bytes), Malformed, "bytes")
        _integers(call, start, judge, bonus)
        require(judge <= limits.drafts_per_call, OutOfRange, "too many drafts")
        prefix, tokens = text[:SENT_PREFIX_BYTES], text[SENT_PREFIX_BYTES:]
        ids = unpack_ids(tokens, limits.tokens_per_call)
        require(judge <= len(ids), OutOfRange, "more drafts than tokens")
        judged = ids[len(ids) - judge :]
        weights, drafts = unpack_q(q, judged, limits.weights_per_call, limits.wire_top)
        request = Request(
            id=call,
            start=start,
            prefix=prefix,
            tokens=ids,
            weights=weights,
            drafts=drafts,
            bonus=bonus,
            settings=None if settings is None else Settings.unpack(settings),
        )
        request.check(limits, n_vocab)
        vars(request)["_packed"] = body  # what was sent, and need not be made again
        return request

    @staticmethod
    def from_json(value: Any, limits: Limits, n_vocab: int) -> Request:
        """The same from JSON with the fields' names; prefix in hex, whole or its first half."""
        try:
            q, settings = value.get("q") or {}, value.get("settings")
            request = Request(
                id=value["id"],
                start=value["start"],
                prefix=bytes.fromhex(value.get("prefix", prefix_hash([]).hex())),
                tokens=list(value["tokens"]),
                weights=list(q.get("weights", [])),
                drafts=[
                    Distribution(_naturals(d["ids"]), _naturals(d["weights"]))
                    for d in q.get("drafts", [])
                ],
                bonus=value.get("bonus", 0),
                settings=None if settings is None else Settings.unpack(settings),
            )
        except KeyError as error:
            raise Malformed(f"not a request: {error.args[0]} is missing") from None
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, Malformed | OutOfRange):
                raise
            raise Malformed(f"not a request: {error}") from None
        require(value.get("v", VERSION) == VERSION, Malformed, _WRONG_VERSION)
        require(
            value.get("judge", len(request.drafts)) == len(request.drafts),
            OutOfRange,
            "judge and the number of distributions differ",
        )
        _integers(request.id, request.start, request.bonus, *request.tokens, *request.weights)
        request.check(limits, n_vocab)
        return request

    def check(self, limits: Limits, n_vocab: int) -> None:
        """Refuse what no honest device would send."""
        if self.settings is not None:
            self.settings.check(limits)
        require(0 <= self.id < 2**32, OutOfRange, "id must be 32 bits")
        require(0 <= self.start < 2**31, OutOfRange, "start out of range")
        n_prefix = len(self.prefix)
        require(n_prefix in (SENT_PREFIX_BYTES, PREFIX_BYTES), Malformed, "prefix has 4 or 8 bytes")
        require(len(self.tokens) <= limits.tokens_per_call, OutOfRange, "too many tokens")
        require(len(self.drafts) <= limits.drafts_per_call, OutOfRange, "too many drafts")
        require(len(self.weights) <= limits.weights_per_call, OutOfRange, "too many weights")
        require(
            len(self.weights) + len(self.drafts) <= len(self.tokens),
            OutOfRange,
            "more weights and drafts than tokens",
        )
        require(0 <= self.bonus <= limits.bonus_per_call, OutOfRange, "bonus out of range")
        require(_within(self.tokens, 0, n_vocab - 1), OutOfRange, "unknown token id")
        require(_within(self.weights, 1, TOTAL), OutOfRange, "a weight is impossible")
        judged = self.tokens[len(self.tokens) - len(self.drafts) :]
        for token, draft in zip(judged, self.drafts, strict=True):
            check_distribution(draft, limits.wire_top, n_vocab)
            require(draft.weight(token) > 0, OutOfRange, "a draft is not in its distribution")


class Timing(NamedTuple):
    """Microseconds a call spent in the verifier's queue and in the model."""

    queue: int = 0
    model: int = 0


@dataclass(frozen=True)
class Reply:
    """The verdict.

    Args:
        id, start: those of the request.
        accepted: how many drafts stand.
        tokens: a replacement, or supplied tokens.
        betas: of the skipped tokens that came with a weight, then of the drafts looked at.
        held: how many ids the verifier holds now.
        us: where the time went.
        proposal: the LLM's own next token, not settled (ensemble).
        distributions: the LLM's p at each asked position (ensemble), as bytes.
        binding: `Request.binding` of the request: which session and content it answers.
    """

    id: int
    start: int
    accepted: int
    tokens: Sequence[int]
    betas: Sequence[float]
    held: int
    us: Timing = field(default_factory=Timing)
    proposal: int | None = None
    distributions: Sequence[bytes] = ()
    binding: bytes = b""

    def pack(self) -> bytes:
        """MessagePack; betas as 32-bit floats."""
        body: bytes = msgpack.packb(
            [
                self.id, self.start, self.binding, self.accepted, pack_ids(self.tokens),
                self.proposal, list(self.distributions),
                np.asarray(self.betas, dtype="<f4").tobytes(), self.held, list(self.us),
            ]
        )  # fmt: skip
        return body

    def to_json(self) -> dict[str, Any]:
        """The same by name."""
        return {
            "id": self.id, "start": self.start, "binding": self.binding.hex(),
            "accepted": self.accepted, "tokens": list(self.tokens), "proposal": self.proposal,
            "distributions": [d.hex() for d in self.distributions],
            "betas": [float(b) for b in self.betas], "held": self.held, "us": list(self.us),
        }  # fmt: skip

    @staticmethod
    def unpack(body: bytes, request: Request, n_vocab: int, session: str) -> Reply:
        """Decode the answer to `request`, sent in `session`. It is not trusted.

        Raises:
            Malformed: it is no answer, or not the answer to this request.
        """
        fields = _array(body)
        require(len(fields) == 10, Malformed, "not an array of 10")
        call, start, binding, accepted, tokens, proposal, distributions, betas, held, us = fields
        judge = len(request.drafts)
        _integers(call, start, accepted, held)
        require(isinstance(tokens, bytes) and isinstance(betas, bytes), Malformed, "bytes")
        require((call, start) == (request.id, request.start), Malformed, "another call's reply")
        require(binding == request.binding(session), Malformed, "the reply to another call")
        require(accepted <= judge, Malformed, "more accepted than drafted")
        ids = unpack_ids(tokens, max(1, request.bonus), Malformed)
        if accepted < judge:
            require(len(ids) == 1, Malformed, "a rejection needs one replacement")
        else:
            require(len(ids) <= request.bonus, Malformed, "more supplied than asked for")
        require(all(t < n_vocab for t in ids), Malformed, "unknown token id")
        require(len(betas) % 4 == 0, Malformed, "betas")
        values = np.frombuffer(betas, dtype="<f4").astype(float).tolist()
        looked = min(accepted + 1, judge)
        require(len(values) == len(request.weights) + looked, Malformed, "number of betas")
        require(all(0.0 <= b <= 1.0 for b in values), Malformed, "a beta is no probability")
        end = request.start + len(request.tokens) - judge + accepted + len(ids)
        require(held <= end, Malformed, "holds more than was sent")
        require(isinstance(us, list) and len(us) == 2, Malformed, "us")
        _integers(*us)
        require(isinstance(distributions, list), Malformed, "distributions")
        require(all(isinstance(d, bytes) for d in distributions), Malformed, "distributions")
        if proposal is not None:
            _integers(proposal)
            asked = request.bonus > 0 and accepted == judge and not ids
            require(asked, Malformed, "a proposal that was not asked for")
            require(len(distributions) > 0, Malformed, "a proposal comes with its distribution")
            Reply.proposed_from(distributions[-1], proposal, n_vocab)
        return Reply(
            call, start, accepted, ids, values, held, Timing(*us), proposal, distributions, binding
        )  # fmt: skip

    @staticmethod
    def proposed_from(raw: bytes, proposal: int, n_vocab: int) -> Distribution:
        """The LLM's distribution that a proposal was drawn from; raises Malformed."""
        try:
            drawn_from = unpack_distribution(raw, n_vocab)
            check_distribution(drawn_from, n_vocab, n_vocab)
        except OutOfRange as error:
            raise Malformed(str(error)) from None
        require(drawn_from.weight(proposal) > 0, Malformed, "a proposal is not in its distribution")
        return drawn_from


@dataclass(frozen=True)
class Conflict:
    """409: the verifier holds fewer ids than `start`, another prefix, or no settings."""

    held: int
    held_prefix: bytes

    def to_json(self) -> dict[str, Any]:
        """What stands beside `error` in the body."""
        return {"held": self.held, "held_prefix": self.held_prefix.hex()}

    @staticmethod
    def from_json(value: Any) -> Conflict:
        """Raises Malformed if it is not one."""
        try:
            held, prefix = value["held"], bytes.fromhex(value["held_prefix"])
        except (KeyError, TypeError, ValueError):
            raise Malformed("not a conflict") from None
        _integers(held)
        return Conflict(held, prefix)


def _array(body: bytes) -> list[Any]:
    try:
        value = msgpack.unpackb(body, raw=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise Malformed(f"not MessagePack: {first_line(error)}") from None
    require(isinstance(value, list), Malformed, "not an array")
    fields: list[Any] = value
    return fields


def _within(values: Sequence[int], least: int, most: int) -> bool:
    return not values or (min(values) >= least and max(values) <= most)


def _naturals(values: Any) -> NDArray[np.int64]:
    require(isinstance(values, list), Malformed, "a list of numbers is missing")
    _integers(*values)
    return np.array(values, dtype=np.int64)


def _integers(*values: Any) -> None:
    require(
        all(type(v) is int and 0 <= v < 2**63 for v in values),
        Malformed,
        "a number is not a natural number",
    )
