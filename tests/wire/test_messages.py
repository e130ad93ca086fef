"""The one call as bytes: what goes in comes out, and nothing hostile gets further than here."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uhlm_edge.lm.sampling import TOTAL, Distribution, Sampler
from uhlm_edge.lm.targets import LLM, Contrastive, Weighted
from uhlm_edge.wire import codec
from uhlm_edge.wire.messages import (
    VERSION,
    Info,
    Malformed,
    OutOfRange,
    Request,
    Settings,
    prefix_hash,
)

from .wire_cases import IDS, JSON, LIMITS, V, damaged, distributions, one_token

SETTINGS = st.builds(
    Settings,
    sampler=st.builds(
        Sampler,
        temperature=st.floats(0, 100),
        top_k=st.integers(0, 500),
        top_p=st.floats(0.01, 1),
        min_p=st.floats(0, 1),
    ),
    target=st.sampled_from([LLM, Weighted(weight=0.25), Contrastive(mu=0.3)]),
    seed=st.integers(0, 2**64 - 1),
    origin=st.integers(0, 2**31 - 1),
    slide=st.booleans(),
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    before = draw(st.lists(IDS, max_size=20))
    skipped = draw(st.lists(IDS, max_size=20))
    drafts = draw(st.lists(distributions(), max_size=4))
    judged = [int(d.ids[draw(st.integers(0, len(d.ids) - 1))]) for d in drafts]
    return Request(
        id=draw(st.integers(0, 2**32 - 1)),
        start=len(before),
        prefix=prefix_hash(before),
        tokens=[*skipped, *judged],
        weights=[draw(st.integers(1, TOTAL)) for _ in skipped[draw(st.integers(0, 20)) :]],
        drafts=drafts,
        bonus=draw(st.integers(0, 64)),
        settings=draw(st.none() | SETTINGS),
    )


def plain(request: Request) -> tuple[Any, ...]:
    """A request in a form that can be compared."""
    qs = [(d.ids.tolist(), d.weights.tolist()) for d in request.drafts]
    rest = replace(
        request, drafts=(), tokens=list(request.tokens), weights=list(request.weights),
        prefix=request.prefix[:4],  # the half that travels
    )  # fmt: skip
    return qs, rest


# Requests


@given(requests())
def test_a_request_comes_out_as_it_went_in(request_: Request) -> None:
    assert plain(Request.unpack(request_.pack(), LIMITS, V)) == plain(request_)


@given(requests())
def test_json_with_names_is_the_same_request(request_: Request) -> None:
    text = json.dumps(
        {
            "v": VERSION,
            "id": request_.id,
            "start": request_.start,
            "prefix": request_.prefix.hex(),
            "tokens": list(request_.tokens),
            "judge": len(request_.drafts),
            "q": {
                "weights": list(request_.weights),
                "drafts": [
                    {"ids": d.ids.tolist(), "weights": d.weights.tolist()} for d in request_.drafts
                ],
            },
            "bonus": request_.bonus,
            "settings": request_.settings and request_.settings.model_dump(),
        }
    )
    assert plain(Request.from_json(json.loads(text), LIMITS, V)) == plain(request_)


def test_the_least_that_curl_must_send() -> None:
    request = Request.from_json({"id": 1, "start": 0, "tokens": [5], "settings": {}}, LIMITS, V)
    assert request == Request(1, 0, prefix_hash([]), [5], [], [], 0, Settings())


@pytest.mark.parametrize(("n_ids", "most"), [(1, 42), (5, 62), (16, 112), (40, 205)])
def test_a_usual_upload_is_small(n_ids: int, most: int) -> None:
    assert len(one_token(n_ids).pack()) <= most


@pytest.mark.parametrize(("n_skipped", "n_drafts", "most"), [(0, 1, 19), (0, 4, 25), (5, 1, 29)])
def test_an_upload_of_certain_tokens_is_ids_and_few_bytes(
    n_skipped: int, n_drafts: int, most: int
) -> None:
    ids = list(range(8000, 8000 + n_skipped + n_drafts))
    drafts = [Distribution.certain(token) for token in ids[n_skipped:]]
    sure = Request(300, 500, prefix_hash(range(500)), ids, [TOTAL] * n_skipped, drafts, 1)
    assert len(sure.pack()) <= most
    assert plain(Request.unpack(sure.pack(), LIMITS, V)) == plain(sure)
    doubtful = replace(sure, weights=[TOTAL - 1] * n_skipped) if n_skipped else one_token()
    again = Request.unpack(doubtful.pack(), LIMITS, V)
    assert plain(again) == plain(doubtful)  # and a list of weights is told from their number


def test_a_text_whose_hash_agrees_in_the_half_that_travels_gets_another_binding() -> None:
    mine = prefix_hash([1, 2, 3])
    sent = replace(one_token(), prefix=mine)
    read = Request.unpack(sent.pack(), LIMITS, V)
    assert mine.startswith(read.prefix)
    assert len(read.prefix) == 4
    assert read.binding("a" * 32, mine) == sent.binding("a" * 32)
    assert read.binding("a" * 32, mine[:4] + bytes(4)) != sent.binding("a" * 32)


def test_a_weight_of_one_half_and_of_one_survive() -> None:
    sure = Distribution(np.array([7]), np.array([TOTAL]))
    request = Request(1, 0, prefix_hash([]), [3, 7], [TOTAL], [sure])
    again = Request.unpack(request.pack(), LIMITS, V)
    assert list(again.weights) == [TOTAL]
    assert again.drafts[0].weights.tolist() == [TOTAL]


@pytest.mark.parametrize("seed", range(4))
def test_damaged_requests_are_refused_or_make_sense(seed: int) -> None:
    rng = random.Random(seed)
    whole = replace(one_token(), settings=Settings(target=Weighted())).pack()
    for _ in range(500):
        try:
            request = Request.unpack(damaged(whole, rng), LIMITS, V)
        except (Malformed, OutOfRange):
            continue
        request.check(LIMITS, V)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_malformed_or_out_of_range(raw: bytes) -> None:
    with pytest.raises((Malformed, OutOfRange)):
        Request.unpack(raw, LIMITS, V)


FIELDS = ["id", "start", "prefix", "tokens", "judge", "q", "bonus", "settings", "v"]


@given(st.sampled_from(FIELDS), JSON)
def test_any_json_in_any_field_is_refused_or_makes_sense(name: str, value: Any) -> None:
    q = {"ids": [7], "weights": [TOTAL]}
    whole = {"id": 1, "start": 0, "tokens": [1, 7], "q": {"drafts": [q]}, "settings": {}}
    for candidate in (whole | {name: value}, value):
        try:
            request = Request.from_json(candidate, LIMITS, V)
        except (Malformed, OutOfRange):
            continue
        request.check(LIMITS, V)


@pytest.mark.parametrize("name", ["ids", "weights"])
@pytest.mark.parametrize(
    "value", [[7.5], ["7"], [[7]], [True], [1e300], [2**70], [float("nan")], 7, "7", None, {"a": 1}]
)
def test_json_distributions_hold_natural_numbers(name: str, value: Any) -> None:
    q = {"ids": [7], "weights": [TOTAL]} | {name: value}
    with pytest.raises((Malformed, OutOfRange)):
        Request.from_json({"id": 1, "start": 0, "tokens": [7], "q": {"drafts": [q]}}, LIMITS, V)


@pytest.mark.parametrize(
    "change",
    [
        {"id": 2**32},
        {"start": 2**31},
        {"tokens": [V]},
        {"tokens": list(range(LIMITS.tokens_per_call + 1))},
        {"bonus": LIMITS.bonus_per_call + 1},
        {"weights": [1] * 6},
        {"tokens": []},
        {"drafts": [Distribution(np.array([V]), np.array([TOTAL]))]},
        {"drafts": [Distribution(np.array([1, 2]), np.array([TOTAL, 1]))]},
        {"drafts": [Distribution(np.array([2, 2]), np.array([1, TOTAL - 1]))]},
        {"drafts": [Distribution(np.array([1]), np.array([TOTAL]))]},  # not the draft's own
        {"drafts": [Distribution(np.array([9]), np.array([TOTAL]))] * 65},
        {"drafts": [Distribution(np.arange(257), np.array([255] * 256 + [256]))]},
    ],
    ids=str,
)
def test_impossible_values_are_out_of_range(change: dict[str, Any]) -> None:
    request = replace(one_token(), **change)
    with pytest.raises(OutOfRange):
        Request.unpack(request.pack(), LIMITS, V)


@pytest.mark.parametrize("field", range(8))
@pytest.mark.parametrize(
    "value", [None, -1, 1.5, True, "x", b"", b"\xff" * 9, [], {}, 2**63, [[]], msgpack.Timestamp(1)]
)
def test_no_field_takes_what_it_is_not(field: int, value: Any) -> None:
    body = [*msgpack.unpackb(one_token().pack()), None]  # without settings
    if body[field] == value:
        return
    body[field] = value
    try:
        request = Request.unpack(msgpack.packb(body), LIMITS, V)
    except (Malformed, OutOfRange):
        return
    request.check(LIMITS, V)
    assert (field, value) in [(7, None), (7, {})]


@pytest.mark.parametrize("version", [0, 1, VERSION - 1, VERSION + 1, None, "3"])
def test_another_version_is_malformed(version: Any) -> None:
    body = msgpack.unpackb(one_token().pack())
    with pytest.raises(Malformed, match="version"):
        Request.unpack(msgpack.packb([version, *body[1:]]), LIMITS, V)
    second = [2, 1, 0, prefix_hash([]), b"\5", 0, [b""], 0, None]  # as version 2 had it
    with pytest.raises(Malformed, match="speaks version 3"):
        Request.unpack(msgpack.packb(second), LIMITS, V)
    names = {"v": version, "id": 1, "start": 0, "tokens": [5], "settings": {}}
    with pytest.raises(Malformed, match="version"):
        Request.from_json(names, LIMITS, V)


def test_a_binding_tells_calls_and_sessions_apart() -> None:
    first = replace(one_token(), id=1, start=0, prefix=prefix_hash([]))
    others = [
        replace(first, id=2),
        replace(first, prefix=bytes(8)),
        replace(first, tokens=[*first.tokens[1:], 9]),
        replace(first, weights=[1] * 4),
        replace(first, bonus=1),
        replace(first, settings=Settings(seed=3)),
    ]
    bindings = {request.binding("a" * 32) for request in [first, *others]}
    bindings.add(first.binding("b" * 32))
    assert len(bindings) == len(others) + 2
    again = Request.unpack(first.pack(), LIMITS, V)
    assert again.binding("a" * 32, first.prefix) == first.binding("a" * 32)


def test_a_binding_is_over_the_bytes_that_were_sent() -> None:
    body = replace(one_token(), id=7).pack()
    longer = body[:2] + b"\xcc" + body[2:]  # the id as a byte of its own: another way to write it
    requests = [Request.unpack(raw, LIMITS, V) for raw in (body, longer)]
    assert [request.id for request in requests] == [7, 7]
    assert len({request.binding("a" * 32) for request in requests}) == 2
    sent = replace(one_token(), id=7)
    assert requests[0].binding("a" * 32, sent.prefix) == sent.binding("a" * 32)


INFO = Info(model="m", fingerprint=(257, "f"), end_ids=frozenset([2]), n_ctx=9, limits=LIMITS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"protocol": 1}, "version 1"),
        ({"protocol": 2}, "version 2"),
        ({"protocol": 4}, "version 4"),
        ({"level": 0}, "level 0"),
        ({"level": 1}, "level 1"),
        ({"level": 4}, "level 4"),
        ({"end_ids": frozenset(range(257))}, "257 end-of-text ids"),
        ({"end_ids": frozenset(range(65))}, "65 end-of-text ids"),
        ({"fingerprint": (3, "f"), "end_ids": frozenset([1, 2])}, "2 end-of-text ids of 3"),
        ({"n_ctx": 0}, "no verifier"),
    ],
)
def test_a_verifier_that_this_side_cannot_work_with_is_refused(
    change: dict[str, Any], reason: str
) -> None:
    assert Info.parse(INFO.model_dump_json()) == INFO
    with pytest.raises(Malformed, match=reason):
        Info.parse(INFO.model_copy(update=change).model_dump_json())


def test_positions_to_judge_are_limited() -> None:
    n = LIMITS.weights_per_call
    request = Request(1, 0, prefix_hash([]), [1] * (n + 1), [5] * n, settings=Settings())
    assert Request.unpack(request.pack(), LIMITS, V)
    with pytest.raises(OutOfRange, match="too many weights"):
        Request.unpack(replace(request, weights=[5] * (n + 1)).pack(), LIMITS, V)


def test_a_claim_of_billions_allocates_nothing() -> None:
    with pytest.raises(Malformed):
        Request.unpack(b"\xdd\xff\xff\xff\xff", LIMITS, V)
    with pytest.raises((Malformed, OutOfRange)):
        codec.unpack_distribution(codec.pack_ids([2**31 - 1, 1, 1]), 256)
    with pytest.raises(Malformed):
        codec.unpack_contrast(codec.pack_ids([2**31 - 1, 1, 1]), V)
    with pytest.raises(Malformed):
        Request.unpack(b"\x91" * 100_000, LIMITS, V)


# Settings


@given(SETTINGS)
def test_settings_come_out_as_they_went_in(settings: Settings) -> None:
    assert Settings.unpack(msgpack.unpackb(msgpack.packb(settings.pack()))) == settings
    assert Settings.unpack(settings.model_dump()) == settings


def test_the_coupling_travels_along_with_the_llm_as_target() -> None:
    coupled = Settings(seed=3, coupling="gumbel")
    assert Settings.unpack(coupled.pack()) == Settings.unpack(coupled.model_dump()) == coupled
    assert len(Settings(seed=3).pack()) < len(coupled.pack())  # without it, nothing is said


@pytest.mark.parametrize("coupling", ["none", "gumbel"])
def test_a_verifier_that_knows_no_sliding_is_told_of_it_only_when_it_is_wanted(
    coupling: Any,
) -> None:
    slid = Settings(seed=3, coupling=coupling, slide=True)
    assert Settings.unpack(slid.pack()) == Settings.unpack(slid.model_dump()) == slid
    assert len(Settings(seed=3, coupling=coupling).pack()) < len(slid.pack())


@pytest.mark.parametrize(
    "value",
    [
        [],
        [1] * 8,
        [float("nan"), 0, 1, 0, None, 0, 0],
        [-1, 0, 1, 0, None, 0, 0],
        [1, 0, 1, 0, None, -1, 0],
        [1, 0, 1, 0, None, 2**64, 0],
        [1, 0, 1, 0, None, 0, 2**31],
        [1, 0, 1, 0, {"kind": "best"}, 0, 0],
        [1, 0, 1, 0, {"kind": "weighted", "weight": 2}, 0, 0],
        [1, 0, 1, 0, None, 0, 0, "cauchy"],
        [1, 0, 1, 0, None, 0, 0, "gumbel", "gumbel"],
        [1, 0, 1, 0, None, 0, 0, "gumbel", True, True],
        [1, 0, 1, 0, {"kind": "weighted"}, 0, 0, "gumbel"],  # an ensemble is no LLM
        {"seed": 1, "sead": 2},
        7,
        "settings",
    ],
    ids=str,
)
def test_impossible_settings_are_out_of_range(value: Any) -> None:
    with pytest.raises(OutOfRange, match="settings"):
        Settings.unpack(value)
