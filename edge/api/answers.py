"""Replies in OpenAI's form, whole or in pieces, and what they carry beside it: `uhlm`."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ...lm.sampling import TOTAL
from ..events import Token
from .reply import Reply, provenance

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

_NULL = "null"
_WORDS = {None: _NULL, True: "true", False: "false"}
_NOT_PROPOSED = -9999.0  # what OpenAI says for a token that is none of the likely ones


def _token(reply: Reply, token: Token) -> str:
    """A token as JSON, with who wrote it and what is known about it.

    It is put together by hand, because a stream pays for it at every token; texts are quoted by the
    library.
    """
    text, u, verdict = _encode(token.text), token.uncertainty, token.accepted
    reason = f',"reason":{_encode(token.reason)}' if token.reason else ""
    draft = f',"draft":{_encode(reply.draft_text(token))}' if token.source == "cloud" else ""
    return (
        f'{{"index":{token.index},"id":{token.id},"text":{text},"source":"{token.source}",'
        f'"provenance":"{provenance(token)}","uncertainty":{_NULL if u is None else float(u)},'
        f'"uploaded":{_WORDS[token.uploaded]},"accepted":{_WORDS[verdict]}{reason}{draft}}}'
    )


class Answer:
    """One answer to one request; the kinds differ in what a choice looks like.

    Args:
        model: its name, as the client knows it.
        reply: being written.
        logprobs: how many alternatives to tell for each token; None: no logarithms at all.
    """

    object = ""
    chunk = ""
    prefix = ""

    def __init__(self, model: str, reply: Reply, logprobs: int | None = None) -> None:
        self.reply = reply
        self._logprobs = logprobs
        self._head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }
        head = {**self._head, "object": self.chunk}
        self._begins = f'data: {_encode(head)[:-1]},"choices":'  # every event
        self._told = 0  # notices
        self._judged = 0  # verdicts on skipped tokens

    def whole(self) -> bytes:
        """The answer, when the reply has ended."""
        reply = self.reply
        tokens = ",".join(_token(reply, token) for token in reply.tokens)
        uhlm = f'{{"tokens":[{tokens}],{_encode({**self._news(), **self._costs()})[1:]}'
        part, logprobs = self.content(reply.text), self.logprobs(reply.tokens)
        choice = _choice(part, logprobs, reply.finish_reason, uhlm)
        head = _encode({**self._head, "object": self.object})[:-1]
        return _bytes(f'{head},"choices":[{choice}],"usage":{_encode(self.usage())}}}')

    def begin(self) -> bytes:
        """The first event of a stream, if this kind has one."""
        return b""

    def pieces(self, tokens: Sequence[Token]) -> bytes:
        """An event for each token."""
        events = []
        for token in tokens:
            news = f",{_encode(told)[1:-1]}" if (told := self._news()) else ""
            uhlm = f'{{"tokens":[{_token(self.reply, token)}]{news}}}'
            logprobs = None if self._logprobs is None else self.logprobs([token])
            events.append(self._event(self.delta(token.text), logprobs, None, uhlm))
        return b"".join(events)

    def end(self) -> bytes:
        """The event that says why the reply ended, and what it cost."""
        uhlm = _encode({**self._news(), **self._costs()})
        return self._event(self.delta(None), None, self.reply.finish_reason, uhlm)

    def usage_event(self) -> bytes:
        """The event with the counts, for clients that asked for it."""
        return _bytes(f'{self._begins}[],"usage":{_encode(self.usage())}}}\n\n')

    def usage(self) -> dict[str, Any]:
        """Counts of tokens."""
        reply = self.reply
        n = len(reply.tokens)
        return {
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": n,
            "total_tokens": reply.prompt_tokens + n,
            "prompt_tokens_details": {"cached_tokens": reply.cached_tokens},
        }

    def _event(self, part: str, logprobs: Any, reason: str | None, uhlm: str) -> bytes:
        """One event of the stream."""
        return _bytes(f"{self._begins}[{_choice(part, logprobs, reason, uhlm)}]}}\n\n")

    def content(self, text: str) -> str:
        """The text of a choice, as a member of JSON."""
        raise NotImplementedError

    def delta(self, text: str | None) -> str:
        """What a piece adds, as a member of JSON; None: nothing."""
        raise NotImplementedError

    def logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        """Logarithms of probabilities as the device saw them; None if nobody asked."""
        raise NotImplementedError

    def _likely(self, token: Token) -> tuple[float, list[tuple[int, float]]]:
        """The logarithm of a token's probability under q, and of the likeliest ones."""
        draft = self.reply.draft(token)
        if draft is None:
            return _NOT_PROPOSED, []
        weight = draft.q.weight(token.id)
        own = math.log(weight / TOTAL) if weight else _NOT_PROPOSED
        pairs = sorted(zip(draft.q.weights, draft.q.ids, strict=True), reverse=True)
        top = pairs[: self._logprobs or 0]
        return own, [(int(i), math.log(int(w) / TOTAL)) for w, i in top]

    def _news(self) -> dict[str, Any]:
        """Notices and verdicts that have not been told yet."""
        notices = self.reply.notices[self._told :]
        verdicts = self.reply.verdicts[self._judged :]
        self._told += len(notices)
        self._judged += len(verdicts)
        return {
            **({"notices": notices} if notices else {}),
            **({"verdicts": [asdict(verdict) for verdict in verdicts]} if verdicts else {}),
        }

    def _costs(self) -> dict[str, Any]:
        stats = self.reply.stats
        budget = {} if (spent := self.reply.budget) is None else {"budget": spent}
        return {"stats": stats.to_json(), "offline_reason": stats.offline_reason, **budget}


class ChatAnswer(Answer):
    """Of `/v1/chat/completions`."""

    object = "chat.completion"
    chunk = "chat.completion.chunk"
    prefix = "chatcmpl"

    def content(self, text: str) -> str:
        return f'"message":{{"role":"assistant","content":{_encode(text)},"refusal":null}}'

    def begin(self) -> bytes:
        return self._event('"delta":{"role":"assistant","content":""}', None, None, "{}")

    def delta(self, text: str | None) -> str:
        return '"delta":{}' if text is None else f'"delta":{{"content":{_encode(text)}}}'

    def logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self._logprobs is None:
            return None
        content = []
        for token in tokens:
            own, top = self._likely(token)
            others = [{**_spelt(self.reply.piece(i)), "logprob": value} for i, value in top]
            piece = _spelt(self.reply.piece(token.id) or token.text.encode())
            content.append({**piece, "logprob": own, "top_logprobs": others})
        return {"content": content, "refusal": None}


class CompletionAnswer(Answer):
    """Of `/v1/completions`."""

    object = chunk = "text_completion"
    prefix = "cmpl"

    def content(self, text: str) -> str:
        return f'"text":{_encode(text)}'

    def delta(self, text: str | None) -> str:
        return self.content(text or "")

    def logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self._logprobs is None:
            return None
        every = [self._likely(token) for token in tokens]
        before = "".join(
            token.text for token in self.reply.tokens[: tokens[0].index if tokens else 0]
        )
        offsets, at = [], len(before)
        for token in tokens:
            offsets.append(at)
            at += len(token.text)
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [own for own, _ in every],
            "top_logprobs": [
                {_spelt(self.reply.piece(i))["token"]: value for i, value in top}
                for _, top in every
            ],
            "text_offset": offsets,
        }


def _choice(part: str, logprobs: Any, reason: str | None, uhlm: str) -> str:
    """The only choice, as JSON; `part` and `uhlm` are JSON already."""
    likely = _NULL if logprobs is None else _encode(logprobs)
    why = _NULL if reason is None else _encode(reason)
    return f'{{"index":0,{part},"logprobs":{likely},"finish_reason":{why},"uhlm":{uhlm}}}'


def _spelt(piece: bytes) -> dict[str, Any]:
    return {"token": piece.decode("utf-8", "replace"), "bytes": list(piece)}


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
