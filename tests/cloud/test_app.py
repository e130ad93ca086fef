"""The verifier over HTTP, called as a server calls it, without a socket."""

from __future__ import annotations

import asyncio
import hmac
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from uhlm_edge.cloud.app import App
from uhlm_edge.cloud.service import Service
from uhlm_edge.cloud.verifier import Verifier
from uhlm_edge.common.errors import ContextFull, EngineError
from uhlm_edge.common.keys import Keys
from uhlm_edge.lm.sampling import TOTAL, Distribution
from uhlm_edge.wire.messages import Info, Limits, Reply, Request, Settings, prefix_hash

from ..fakes import CLOUD, FakeContext

KEY, OTHER = "sk-canary-one", "sk-canary-two"
SESSION = "0123456789abcdef" * 2
V = len(CLOUD.vocab)
LIMITS = Limits(body_bytes=2048, tokens_per_call=64)
ASKED = Request(
    1, 0, prefix_hash([]), [1, 2, 7], [], [Distribution(np.array([7]), np.array([TOTAL]))],
    settings=Settings(origin=2),
)  # fmt: skip


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service(
        verifier=Verifier(FakeContext(), 200, 8, queue=2),
        vocab=CLOUD.vocab,
        model_name="fake-llm",
        backend="none",
        limits=LIMITS,
        keys=Keys([KEY, OTHER]),
    )
    service.verifier.driver.start()
    yield service
    service.verifier.driver.close()


def ask(
    service: Service,
    method: str,
    path: str,
    body: bytes | list[bytes] = b"",
    key: str | None = KEY,
    session: str | None = SESSION,
    **more: str,
) -> Answer:
    """One request; a body in parts has no content-length."""
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    parts = body if isinstance(body, list) else [body]
    if isinstance(body, bytes):
        headers.setdefault("content-length", str(len(body)))
    if key is not None:
        headers.setdefault("authorization", f"Bearer {key}")
    if session is not None:
        headers["x-session-id"] = session
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        "headers": [(k.encode(), v.encode("latin-1")) for k, v in headers.items()],
    }  # fmt: skip
    incoming = [
        {"type": "http.request", "body": part, "more_body": i < len(parts)}
        for i, part in enumerate(parts, 1)
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(App(service)(scope, receive, send))
    start = sent[0]
    answer_headers = {k.decode(): v.decode() for k, v in start["headers"]}
    return Answer(start["status"], answer_headers, b"".join(m.get("body", b"") for m in sent[1:]))


def verify(service: Service, request: Request | bytes = ASKED, **more: Any) -> Answer:
    body = request.pack() if isinstance(request, Request) else request
    return ask(service, "POST", "/v1/verify", body, **more)


# Keys


def routes(service: Service) -> list[tuple[str, str]]:
    return [
        (method, path + SESSION if path.endswith("/") else path)
        for path, (method, _) in App(service).routes.items()
    ]


def test_every_route_but_health_wants_a_key(service: Service) -> None:
    seen = routes(service)
    assert len(seen) >= 5
    for method, path in seen:
        for wrong in (
            {"key": None},
            {"key": "sk-other"},
            {"key": ""},
            {"authorization": f"Basic {KEY}"},
            {"authorization": KEY},
            {"authorization": f"Bearer {KEY}x"},
            {"authorization": "Bearer \xff\xfe"},
        ):
            answer = ask(service, method, path, **wrong)
            if path == "/health":
                assert answer.status == 200
            else:
                assert answer.status == 401, (method, path, wrong)
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.error["code"] == 401
    assert len(service.verifier.store) == 0


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_any_of_the_keys_opens(service: Service, scheme: str) -> None:
    for key in (KEY, OTHER):
        answer = ask(service, "GET", "/v1/info", authorization=f"{scheme} {key}")
        assert answer.status == 200


def test_without_keys_everybody_may(service: Service) -> None:
    open_service = replace(service, keys=Keys())
    assert ask(open_service, "GET", "/v1/info", key=None).status == 200


def test_keys_are_compared_in_constant_time_and_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def noting(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    keys = Keys([KEY, OTHER, "third"])
    assert keys.owner(f"Bearer {KEY}")
    assert keys.owner("Bearer nobody") is None
    assert len(compared) == 6
    assert {len(a) for pair in compared for a in pair} == {32}  # hashes, never keys


def test_keys_are_never_shown() -> None:
    keys = Keys([KEY, OTHER])
    shown = repr(keys) + str(keys) + repr(vars(keys)) + str(keys.owner(f"Bearer {KEY}"))
    assert "canary" not in shown
    assert keys.owner(f"Bearer {KEY}") != keys.owner(f"Bearer {OTHER}")


# Calls


def test_info_says_what_a_device_must_know(service: Service) -> None:
    info = Info.parse(ask(service, "GET", "/v1/info").body)
    assert info == service.info()
    assert info.fingerprint == CLOUD.vocab.fingerprint


def test_a_call_in_messagepack_and_in_json(service: Service) -> None:
    answer = verify(service)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/msgpack")
    reply = Reply.unpack(answer.body, ASKED, V, SESSION)
    names = {
        "id": 1, "start": 0, "tokens": [1, 2, 7], "settings": {"origin": 2},
        "q": {"drafts": [{"ids": [7], "weights": [TOTAL]}]},
    }  # fmt: skip
    answer = verify(
        service, json.dumps(names).encode(), content_type="application/json", session="f" * 32
    )
    assert answer.status == 200
    same = json.loads(answer.body)
    assert (same["accepted"], same["tokens"]) == (reply.accepted, list(reply.tokens))


def test_a_conflict_says_what_is_held(service: Service) -> None:
    verify(service)
    answer = verify(service, replace(ASKED, id=2, start=9))
    assert answer.status == 409
    assert json.loads(answer.body)["held"] == 3


def test_another_key_reaches_another_session_by_the_same_id(service: Service) -> None:
    reply = Reply.unpack(verify(service).body, ASKED, V, SESSION)
    ids = [1, 2, *([7] if reply.accepted else reply.tokens)]
    guess = Request(2, 3, prefix_hash(ids), [4])
    answer = verify(service, guess, key=OTHER)
    assert (answer.status, json.loads(answer.body)["held"]) == (409, 0)
    assert ask(service, "DELETE", f"/v1/sessions/{SESSION}", key=OTHER).status == 204
    assert verify(service, guess).status == 200


def test_a_session_can_be_forgotten(service: Service) -> None:
    verify(service)
    assert len(service.verifier.store) == 1
    for _ in range(2):
        assert ask(service, "DELETE", f"/v1/sessions/{SESSION}").status == 204
    assert len(service.verifier.store) == 0
    assert ask(service, "DELETE", "/v1/sessions/x").status == 400


# Limits and errors


@pytest.mark.parametrize("left", ["-1", "1.5", "x", "9" * 20, "\u00b2"])
def test_a_deadline_that_is_no_number_is_malformed(service: Service, left: str) -> None:
    assert verify(service, x_deadline_ms=left).status == 400


def test_a_call_whose_device_waits_no_longer_costs_no_pass(service: Service) -> None:
    assert verify(service, x_deadline_ms="0").status == 504
    assert service.verifier.counters.passes == 0
    assert verify(service, x_deadline_ms="60000").status == 200


def test_a_repeated_id_with_another_content_is_refused(service: Service) -> None:
    first = verify(service).body
    for change in ({"bonus": 1}, {"tokens": [2, 1, 7]}, {"settings": Settings(seed=1, origin=2)}):
        answer = verify(service, replace(ASKED, **change))
        assert (answer.status, answer.error["code"]) == (422, 422)
    assert verify(service).body == first


def test_a_slash_too_many_is_not_redirected(service: Service) -> None:
    assert ask(service, "GET", "/v1/info/", key=None).status == 401
    for path in ("/v1/info/", "/v1/verify/", "/v1/sessions/", "/health/"):
        assert ask(service, "GET", path).status == 404


@pytest.mark.parametrize("session", [None, "", "0" * 31, "0" * 33, "G" * 32, "0" * 31 + "\n"])
def test_a_wrong_session_id_is_malformed(service: Service, session: str | None) -> None:
    assert verify(service, session=session).status == 400


@pytest.mark.parametrize("kind", ["application/msgpack", "application/json", ""])
@pytest.mark.parametrize("body", [b"", b"\xc1", b"[]", b"nonsense", b"[" * 2000, b"\x91" * 2000])
def test_a_malformed_body_is_400(service: Service, kind: str, body: bytes) -> None:
    answer = verify(service, body, content_type=kind)
    assert (answer.status, answer.error["code"]) == (400, 400)


@pytest.mark.parametrize(
    "change",
    [{"tokens": [1, V, 7]}, {"id": 2**32}, {"bonus": 65}, {"tokens": [1] * 65}, {"tokens": [7]}],
    ids=str,
)
def test_impossible_values_are_422(service: Service, change: dict[str, Any]) -> None:
    assert verify(service, replace(ASKED, **change)).status == 422


@pytest.mark.parametrize("length", ["2049", "9" * 5000, "-1", "x", "\u00b2"])
def test_a_body_is_refused_by_its_announced_length(service: Service, length: str) -> None:
    answer = verify(service, content_length=length)
    assert (answer.status, answer.error["code"]) == (413, 413)


def test_a_body_without_length_is_cut_off_at_the_limit(service: Service) -> None:
    parts = [b"x" * 1000 for _ in range(50)]
    assert ask(service, "POST", "/v1/verify", parts).status == 413
    body = ASKED.pack()
    assert ask(service, "POST", "/v1/verify", [body[:9], body[9:]]).status == 200


def test_a_full_queue_is_429_with_retry_after(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, began = threading.Event(), threading.Event()
    scheduler = service.verifier.scheduler

    def hang(*_: Any) -> None:
        began.set()
        release.wait(20)
        raise EngineError("too late")

    with monkeypatch.context() as patch:
        patch.setattr(scheduler._context, "decode", hang)
        outcomes: list[Any] = []
        for i in range(2):
            scheduler.submit(("", f"{i:032x}"), ASKED, outcomes.append)
        assert began.wait(20)
        answer = verify(service)
        release.set()
        service.verifier.driver.close()
    assert [type(outcome) for outcome in outcomes] == [EngineError] * 2
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.error["code"] == 429


def test_a_verifier_that_stops_is_503(service: Service) -> None:
    service.ready = False
    assert ask(service, "GET", "/health", key=None).status == 503
    assert verify(service).status == 503
    service.ready = True
    service.verifier.driver.close()
    assert verify(service).status == 503


@pytest.mark.parametrize(
    ("error", "status"), [(ContextFull("full"), 503), (EngineError("failed"), 500)]
)
def test_a_model_that_fails_says_so(
    service: Service, error: EngineError, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Iterator[None]:
        yield from ()
        raise error

    monkeypatch.setattr(service.verifier.scheduler._judge.__class__, "answer", fail)
    answer = verify(service)
    assert (answer.status, answer.error["message"]) == (status, str(error))


def test_a_fault_of_our_own_tells_nothing_of_itself(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Iterator[None]:
        yield from ()
        raise RuntimeError("canary")

    monkeypatch.setattr(service.verifier.scheduler._judge.__class__, "answer", fail)
    answer = verify(service)
    assert (answer.status, answer.error["message"]) == (500, "the verifier failed")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/v1/verify", 405), ("POST", "/v1/info", 405), ("PUT", "/x", 404)],
)
def test_other_routes_answer_in_the_same_form(
    service: Service, method: str, path: str, status: int
) -> None:
    answer = ask(service, method, path)
    assert (answer.status, answer.error["code"]) == (status, status)


def test_metrics_hold_no_text(service: Service) -> None:
    verify(service)
    text = ask(service, "GET", "/metrics").body.decode()
    assert "uhlm_calls_total 1.0" in text
    assert "canary" not in text
