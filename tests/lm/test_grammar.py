"""Grammars by llama.cpp in a child process: what may come next, and what hostile ones do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from uhlm_edge.common.errors import EngineError, UsageError
from uhlm_edge.lm.engines import llama_grammar
from uhlm_edge.lm.engines.llama_grammar import Grammars
from uhlm_edge.lm.engines.llama_model import LlamaModel
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.lm.vocabulary import Kind, Vocabulary
from uhlm_edge.models import shipped

DEVICE = shipped.path_of("demo-slm")


@pytest.fixture(scope="module")
def grammars() -> Iterator[Grammars]:
    with pytest.MonkeyPatch.context() as patch, closing(Grammars(DEVICE)) as grammars:
        patch.setattr(llama_grammar, "SECONDS", 0.3)
        yield grammars


@pytest.fixture(scope="module")
def vocab() -> Iterator[Vocabulary]:
    with closing(LlamaModel(DEVICE, EngineOptions(), vocabulary_only=True)) as model:
        yield model.vocab


def texts(vocab: Vocabulary, mask: Any) -> set[str]:
    return {vocab.pieces[int(i)].decode("utf-8", "replace") for i in np.flatnonzero(mask)}


def test_what_may_come_next_follows_the_text_also_back(
    grammars: Grammars, vocab: Vocabulary
) -> None:
    text = grammars.read('root ::= "yes" "!"?')()
    (end,) = (vocab.pieces[i].decode() for i in vocab.end_ids)
    yes = vocab.tokenize("yes")
    assert texts(vocab, text([])) == {"y", "ye", "yes"}
    assert texts(vocab, text(yes)) == {"!", end}
    assert texts(vocab, text([*yes, *vocab.tokenize("!")])) == {end}
    assert texts(vocab, text([])) == {"y", "ye", "yes"}  # as after a rollback


def test_texts_do_not_disturb_each_other(grammars: Grammars, vocab: Vocabulary) -> None:
    first, second = grammars.read('root ::= "ab"')(), grammars.read('root ::= "cd"')()
    (a,), (c,) = vocab.tokenize("a"), vocab.tokenize("c")
    assert first([])[a]
    assert second([])[c]
    assert texts(vocab, first([a])) == {"b"}
    assert texts(vocab, second([c])) == {"d"}


def test_the_name_of_a_control_token_is_no_text(grammars: Grammars, vocab: Vocabulary) -> None:
    control = [i for i, kind in enumerate(vocab.kinds) if kind == Kind.CONTROL]
    others = [i for i in control if i not in vocab.end_ids]
    anything = grammars.read("root ::= [^\\x00]+")()
    assert others
    assert not anything([])[others].any()


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ("root ::= (", r"expecting '\)' at its end$"),
        ("root ::= other", "Undefined rule identifier 'other'"),
        ('other ::= "a"', "no rule is `root`"),
        ('root ::= root "a" | "a"', "begins with itself"),
        ('root ::= "\\x00"', "matches nothing"),
        ('root ::= "a\0"', "code 0"),
        ('root ::= "' + "a" * 70_000 + '"', "at most"),
        ("root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000, "too much time or memory|expecting"),
        ('root ::= ("a"?){500} "b"', "too much time or memory"),
        ({"$ref": "https://192.0.2.1/schema.json"}, "remote"),
        ({"$ref": "#"}, "Unsupported ref"),
        ({"type": "no such type"}, "no JSON schema"),
        ({"type": object()}, "GBNF or a JSON schema"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_cannot_be_matched_is_refused_in_one_line(
    grammars: Grammars, grammar: Any, why: str
) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        grammars.read(grammar)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert grammars.read('root ::= "a"')()([]).any()  # the next one is read


def test_a_schema_that_is_too_deep_is_refused(grammars: Grammars) -> None:
    deep: dict[str, Any] = {"type": "integer"}
    for _ in range(5000):
        deep = {"items": deep}
    with pytest.raises(UsageError, match="too deep") as caught:
        grammars.read({"type": "array", "items": deep})
    assert "\n" not in str(caught.value)


def test_a_text_that_does_not_match_is_an_error_and_not_the_end(
    grammars: Grammars, vocab: Vocabulary
) -> None:
    text = grammars.read('root ::= "a"')()
    with pytest.raises(EngineError, match="does not match"):
        text(vocab.tokenize("b"))
    assert text([]).any()


def test_a_grammar_that_takes_for_ever_later_ends_with_an_error(
    grammars: Grammars, vocab: Vocabulary
) -> None:
    (x,) = vocab.tokenize("x")
    text = grammars.read('root ::= "x" "x" ("a"?){500} "b"')()
    with pytest.raises(EngineError, match="too much time or memory"):
        text([x, x])


def test_a_child_that_was_killed_is_started_again(grammars: Grammars, vocab: Vocabulary) -> None:
    text = grammars.read('root ::= "ab"')()
    (a,) = vocab.tokenize("a")
    assert text([])[a]
    assert grammars._child is not None
    grammars._child.close()
    assert texts(vocab, text([a])) == {"b"}
