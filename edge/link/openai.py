"""An endpoint of the OpenAI kind: it is handed a whole reply, and streams it back as text."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from ...common.errors import (
    CloudError,
    ConfigError,
    Overloaded,
    ProtocolError,
    Refused,
    Rejected,
    Unreachable,
    cause_of,
)
from ...common.listen import is_loopback
from ...common.prompts import Message
from ...common.sockets import ClosableAdapter
from ...common.text import one_line
from ...lm.sampling import Sampler
from ..stats import Traffic
from .breaker import Breaker
from .budget import Budget

_LONGEST = 8 << 20  # bytes of a reply with all that is around its text
_LONGEST_ELSE = 1 << 20  # bytes of any other answer


class OpenAiEndpoint:
    """Any server that speaks OpenAI's chat completions. Its vocabulary does not matter.

    Args:
        url: the base URL ("https://api.openai.com/v1"); without a path, `/v1` is meant.
        model: its name there; None: the one that it lists, if it lists one.
        key: sent as a bearer token; only over https, or to loopback.
        connect_timeout: seconds for a connection.
        deadline: seconds that it may be silent.
        ca_file: certificates to trust instead of the system's.
        breaker: keeps replies back while it is away.
        budget: what may be spent; a reply that it does not allow is not asked for.

    Raises:
        ConfigError: the key would travel in the clear.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        key: str | None = None,
        connect_timeout: float = 2.0,
        deadline: float = 10.0,
        ca_file: str | Path | None = None,
        breaker: Breaker | None = None,
        budget: Budget | None = None,
    ) -> None:
        parts = urlsplit(url)
        if key and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise ConfigError(
                f"a key is never sent over plain http, except to this machine: use "
                f"https://{parts.netloc}"
            )
        self.url = url.rstrip("/") if parts.path.strip("/") else f"{url.rstrip('/')}/v1"
        self.traffic = Traffic()
        self._model = model
        self._timeout = (connect_timeout, deadline)
        self._breaker = breaker or Breaker()
        self._budget = budget
        self._adapter = ClosableAdapter()
        self._http = requests.Session()
        self._http.mount(f"{parts.scheme}://", self._adapter)
        self._http.headers["accept-encoding"] = "identity"
        self._http.trust_env = not is_loopback(parts.hostname or "")
        self._http.verify = str(ca_file) if ca_file else True
        if key:
            self._http.headers["authorization"] = f"Bearer {key}"

    def __repr__(self) -> str:
        return f"OpenAiEndpoint({self.url!r})"

    @property
    def ready(self) -> bool:
        """May a reply be handed over now?"""
        return self._breaker.ready

    def connect(self) -> None:
        """Ask who it is, if that is not known.

        Raises:
            CloudError: no answer, or not from an endpoint of this kind.
            ConfigError: it lists several models, and none was named.
        """
        _ = self.model

    @property
    def model(self) -> str:
        """Its name there.

        Raises:
            CloudError: it cannot be asked.
            ConfigError: it lists several, and none was named.
        """
        if self._model is None:
            with self._send("GET", "/models") as answer:
                try:
                    names = [str(each["id"]) for each in self._json(answer)["data"]]
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise ProtocolError(f"{self.url} answers, but lists no models") from None
            if len(names) != 1:
                some = one_line(", ".join(names[:8]), 200) or "none"
                raise ConfigError(f"name a model with --cloud-model; {self.url} has {some}")
            self._model = names[0]
        return self._model

    def stream(
        self,
        messages: Sequence[Message],
        sampler: Sampler,
        seed: int,
        max_tokens: int,
        prompt_tokens: int = 0,
    ) -> Generator[str, None, str]:
        """The reply to a conversation, piece by piece.

        `prompt_tokens` is how long the conversation is in the device's tokens, for the budget.
        Temperature, top-p and seed go along; what OpenAI's API has no name for does not.

        Returns:
            Why it ended: `stop` or `length` (the value of `yield from`).

        Raises:
            CloudError: it failed, or broke off. What came before stays what it was: a beginning.
        """
        begun = time.monotonic()
        if self._budget is not None:
            n_bytes = sum(len(message["content"].encode()) for message in messages)
            self._budget.spend(n_bytes, prompt_tokens)
        self._breaker.begin()
        try:
            body = {
                "model": self.model,
                "messages": list(messages),
                "stream": True,
                "max_tokens": max_tokens,
                "temperature": sampler.temperature,
                "top_p": sampler.top_p,
                "seed": seed % (1 << 31),
            }
            with self._send("POST", "/chat/completions", body) as answer:
                reason = yield from self._pieces(answer)
        except CloudError as error:
            if isinstance(error, Refused):
                self._breaker.give_up()
            else:
                again = error.retry_after if isinstance(error, Overloaded) else None
                self._breaker.fail(time.monotonic() - begun, again)
            raise
        except BaseException:  # nobody wants the rest
            self._breaker.abandon()
            raise
        self._breaker.succeed()
        return reason

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _pieces(self, answer: requests.Response) -> Generator[str, None, str]:
        reason: str | None = None
        for data in self._events(answer):
            if data == b"[DONE]":
                break
            try:
                event = json.loads(data)
                if "error" in event:
                    raise Unreachable(f"{self.url}: {one_line(str(event['error']), 200)}")
                for choice in event["choices"]:
                    if text := choice["delta"].get("content"):
                        if self._budget is not None:
                            self._budget.received(1)
                        yield str(text)
                    reason = choice.get("finish_reason") or reason
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise ProtocolError(f"{self.url} streams something that is no reply") from None
        if reason is None:
            raise Unreachable(f"the reply of {self.url} broke off")
        return "length" if reason == "length" else "stop"

    def _events(self, answer: requests.Response) -> Iterator[bytes]:
        """The data of each event. (RFC: an event ends with an empty line; ours have one line.)"""
        rest, size, heard = b"", 0, time.monotonic()
        try:
            while chunk := answer.raw.read1(1 << 16):
                size += len(chunk)
                self.traffic.payload_down += len(chunk)
                self.traffic.wire_down += len(chunk)
                if size > _LONGEST:
                    raise ProtocolError(f"{self.url} sends more than a reply can be")
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.startswith(b"data:"):
                        yield line[5:].strip()
                        heard = time.monotonic()  # what the reader did meanwhile took its time
                if time.monotonic() - heard > self._timeout[1]:  # remarks, or half a line
                    raise Unreachable(f"{self.url} says nothing for {self._timeout[1]:g} s")
        except (requests.RequestException, HTTPError, OSError) as error:
            raise Unreachable(
                f"the reply of {self.url} broke off ({type(error).__name__})"
            ) from None

    def _send(self, method: str, path: str, body: Any = None) -> requests.Response:
        text = None if body is None else json.dumps(body).encode()
        self.traffic.calls += 1
        self.traffic.payload_up += len(text or b"")
        self.traffic.wire_up += len(text or b"")
        try:
            with self._timed():
                answer = self._http.request(
                    method,
                    self.url + path,
                    data=text,
                    headers={"content-type": "application/json"},
                    timeout=self._timeout,
                    stream=True,
                    allow_redirects=False,
                )
        except (requests.RequestException, OSError) as error:
            raise Unreachable(f"cannot reach {self.url} ({cause_of(error)})") from None
        if answer.status_code != 200:
            with answer:
                raise self._refusal(answer)
        return answer

    def _json(self, answer: requests.Response) -> Any:
        """What is no stream, read to its end. Raises ValueError, RecursionError, CloudError."""
        body = bytearray()
        try:
            with self._timed():
                while chunk := answer.raw.read1(1 << 16):
                    body += chunk
                    if len(body) > _LONGEST_ELSE:
                        raise ProtocolError(f"{self.url} answers with more than 1 MiB")
        except (HTTPError, OSError):
            raise Unreachable(f"the answer of {self.url} broke off") from None
        return json.loads(body)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """What is read here ends in time, however it drips."""
        timer = threading.Timer(sum(self._timeout), self._adapter.close_sockets)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _refusal(self, answer: requests.Response) -> CloudError:
        status = answer.status_code
        try:
            detail = one_line(str(self._json(answer)["error"]["message"]), 200)
        except (ValueError, KeyError, TypeError, RecursionError, CloudError):
            detail = "is this an endpoint of the OpenAI kind?"
        if status in (401, 403):
            return Refused(f"{self.url} refuses the key; set UHLM_API_KEY to a valid one")
        if status == 429:
            after = answer.headers.get("retry-after", "")
            return Overloaded(f"{self.url} is busy", float(after) if after.isdigit() else None)
        if status >= 500 or 300 <= status < 400:
            return Unreachable(f"{self.url} failed (HTTP {status}: {detail})")
        return Rejected(f"{self.url} takes no such call (HTTP {status}: {detail})")
