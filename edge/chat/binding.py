"""Replies that must match a grammar: who may be bound to one, and files that have one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.errors import DataError, UsageError
from ...common.prompts import MOST_TEXT, read_text
from ...configs.config import Config
from ...models.resolve import find_model
from ..link.session import Session
from ..policy.strategy import Strategy
from .assistant import Assistant

if TYPE_CHECKING:
    from ...lm.engines.llama_grammar import Grammars

GrammarText = str | Mapping[str, Any]
"""GBNF, whose first rule is `root`; or a JSON schema."""


def read_files(grammar: Path | None, schema: Path | None) -> GrammarText | None:
    """What one of two files has; None if none is given.

    Raises:
        UsageError: both are given.
        DataError: it cannot be read, or is no JSON object.
    """
    if grammar is not None and schema is not None:
        raise UsageError("give --grammar or --json-schema, not both")
    if grammar is not None:
        return read_text(grammar, MOST_TEXT)
    if schema is None:
        return None
    try:
        found = json.loads(read_text(schema, MOST_TEXT))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{schema}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise DataError(f"{schema}: a JSON schema is an object")
    return found


@contextmanager
def bound(assistant: Assistant, config: Config, grammar: GrammarText | None) -> Iterator[None]:
    """Let replies match a grammar, for as long as the context lasts.

    Raises:
        UsageError: see `require_alone`, `grammars_of` and `Grammars.read`.
    """
    if grammar is None:
        yield
        return
    require_alone(assistant.strategy, assistant.session)
    with closing(grammars_of(config)) as grammars:
        assistant.device = replace(assistant.device, grammar=grammars.read(grammar))
        yield


def grammars_of(config: Config) -> Grammars:
    """What reads grammars for the device's model; close it.

    Raises:
        UsageError: the model does not run on llama.cpp.
    """
    if config.device.runtime != "llama":
        raise UsageError("grammar: only a model that llama.cpp runs can be bound to one")
    from ...lm.engines.llama_grammar import Grammars

    return Grammars(find_model(config.device.model))


def require_alone(strategy: Strategy, session: Session) -> None:
    """A grammar binds what the device's own sampler draws, and no verifier.

    Raises:
        UsageError: somebody else would write too.
    """
    if strategy.name not in ("local", "handoff") and not session.is_offline:
        raise UsageError(
            f"grammar: with strategy {strategy.name} the cloud writes too, and it is not bound; "
            "use strategy local, or handoff, which then keeps the reply on the device"
        )
