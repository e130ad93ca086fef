"""A converted vocabulary splits text as the original does, or is refused."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from uhlm_edge.common.errors import ModelError
from uhlm_edge.lm.vocabulary import Kind
from uhlm_edge.quantize.convert.folder import plan_conversion
from uhlm_edge.quantize.convert.llama_tokens import compare_ids, open_vocabulary
from uhlm_edge.quantize.convert.sample_text import SAMPLE_TEXT
from uhlm_edge.quantize.convert.sentencepiece import read_sentencepiece

from ..tiny_models import Folder, byte_level, make, sentencepiece


def outline(folder: Folder, path: Path) -> Path:
    plan_conversion(folder.write(path / "hf")).write_outline(path / "m.gguf")
    return path / "m.gguf"


def edited(text: str, **changes: Any) -> str:
    return json.dumps({**json.loads(text), **changes})


def test_the_sample_text_is_normalised_and_holds_many_scripts() -> None:
    assert unicodedata.normalize("NFC", SAMPLE_TEXT) == SAMPLE_TEXT
    scripts = {unicodedata.name(c).split()[0] for c in SAMPLE_TEXT if c.isalpha()}
    assert len(scripts) > 25


@pytest.mark.parametrize("rule", ["llama-bpe", "qwen2", "smollm", "gpt-2"])
def test_every_rule_of_cutting_is_recognised(rule: str, tmp_path: Path) -> None:
    folder = make("llama", rule=rule)
    conversion = plan_conversion(folder.write(tmp_path / "hf"))
    assert conversion.tokenizer.pre == rule
    assert conversion.ids_compared > 500


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("files", ["json", "proto", "both"])
def test_sentencepiece_is_read_from_either_file(files: str, prefix: bool, tmp_path: Path) -> None:
    folder = make("llama" if prefix else "gemma3", spm=True)
    pieces = sentencepiece(prefix)
    folder.tokenizer = pieces.to_json() if files != "proto" else ""
    folder.proto = pieces.to_proto() if files != "json" else b""
    conversion = plan_conversion(folder.write(tmp_path / "hf"))
    assert conversion.tokenizer.space_prefix is prefix
    assert conversion.tokenizer.kinds[0] == Kind.UNKNOWN
    assert conversion.tokenizer.kinds[10] == Kind.BYTE
    assert conversion.ids_compared > 500


def test_a_wrong_rule_is_refused_with_the_first_difference(tmp_path: Path) -> None:
    path = outline(make("llama", rule="qwen2"), tmp_path)
    reference = Tokenizer.from_str(byte_level("llama-bpe"))
    with (
        open_vocabulary(path) as vocab,
        pytest.raises(ModelError, match=r"splits text differently: in .* after .*llama.cpp gives"),
    ):
        compare_ids(vocab, reference)


def test_a_rule_that_llama_cpp_has_no_name_for_is_refused(tmp_path: Path) -> None:
    folder = make("llama")
    split = {"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Isolated"}
    step = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    both = {"type": "Sequence", "pretokenizers": [{**split, "invert": False}, step]}
    folder.tokenizer = edited(folder.tokenizer, pre_tokenizer=both)
    with pytest.raises(ModelError, match=r"no name for the pre-tokenizer \[a-z\]\+ \+ bytes"):
        plan_conversion(folder.write(tmp_path / "hf"))


def test_a_tokenizer_of_unknown_type_is_named(tmp_path: Path) -> None:
    folder = make("llama")
    folder.tokenizer = Tokenizer(models.WordPiece({"a": 0}, unk_token="a")).to_str()
    with pytest.raises(ModelError, match="a tokenizer of type WordPiece"):
        plan_conversion(folder.write(tmp_path / "hf"))
    folder.tokenizer = Tokenizer(models.Unigram([("a", 0.0)], 0, False)).to_str()
    with pytest.raises(ModelError, match="a tokenizer of type Unigram"):
        plan_conversion(folder.write(tmp_path / "hf"))


def test_a_sentencepiece_unigram_is_named(tmp_path: Path) -> None:
    folder = make("llama", spm=True)
    folder.tokenizer, folder.proto = "", sentencepiece().to_proto(model_type=1)
    with pytest.raises(ModelError, match="SentencePiece unigram is not supported"):
        plan_conversion(folder.write(tmp_path / "hf"))


def test_a_sentencepiece_without_a_byte_is_refused(tmp_path: Path) -> None:
    """llama.cpp would end the process at the first text with that byte."""
    folder = make("llama", spm=True)
    folder.tokenizer = folder.tokenizer.replace("<0x0A>", "<0xZZ>")
    with pytest.raises(ModelError, match="piece <0x0A> is missing"):
        plan_conversion(folder.write(tmp_path / "hf"))


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    folder = make("llama")
    folder.tokenizer = ""
    with pytest.raises(ModelError, match=r"neither tokenizer.json nor tokenizer.model"):
        plan_conversion(folder.write(tmp_path / "hf"))


@pytest.mark.parametrize("cut", [1, 100, 1000])
def test_a_damaged_sentencepiece_file_is_refused(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece().to_proto()[:-cut])
    with pytest.raises(ModelError, match=r"tokenizer\.model"):
        read_sentencepiece(path)


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"model": {"type": "BPE", "merges": 3}}'])
def test_a_damaged_tokenizer_json_is_refused(damage: str, tmp_path: Path) -> None:
    folder = make("llama")
    folder.tokenizer = damage
    with pytest.raises(ModelError, match="tokenizer"):
        plan_conversion(folder.write(tmp_path / "hf"))


@pytest.mark.parametrize("place", ["vocab", "added_tokens"])
def test_an_id_without_end_is_refused(place: str, tmp_path: Path) -> None:
    folder = make("llama")
    content = json.loads(folder.tokenizer)
    if place == "vocab":
        content["model"]["vocab"]["!"] = float("inf")
    else:
        content["added_tokens"] = [{"id": float("inf"), "content": "<a>"}]
    folder.tokenizer = json.dumps(content)
    with pytest.raises(ModelError, match="damaged"):
        plan_conversion(folder.write(tmp_path / "hf"))


@pytest.mark.parametrize("far", [-1, 20_000, 1_111_179, 2**40])
def test_an_id_far_beyond_the_others_is_refused(far: int, tmp_path: Path) -> None:
    """Each id without a text would get one: a file of 5 kB took 200 MB."""
    folder = make("llama")
    content = json.loads(folder.tokenizer)
    content["model"]["vocab"]["!"] = far
    folder.tokenizer = json.dumps(content)
    with pytest.raises(ModelError, match="more than any model"):
        plan_conversion(folder.write(tmp_path / "hf"))


def test_every_end_of_generation_id_ends_a_text(tmp_path: Path) -> None:
    folder = make("llama")
    ids = Tokenizer.from_str(folder.tokenizer).get_vocab(with_added_tokens=True)
    folder.config["eos_token_id"] = ids["<|end|>"]
    folder.generation = {"eos_token_id": [ids["<|end|>"], ids["<|stop|>"], ids["<tool>"]]}
    with open_vocabulary(outline(folder, tmp_path)) as vocab:
        assert {ids["<|end|>"], ids["<|stop|>"], ids["<tool>"]} <= vocab.end_ids
        assert vocab.eos == "<|end|>"
        assert vocab.bos == "<|begin|>"


def test_more_end_ids_than_llama_cpp_has_keys_for_are_refused(tmp_path: Path) -> None:
    folder = make("llama")
    folder.generation = {"eos_token_id": [7, 8, 9, 10]}
    with pytest.raises(ModelError, match="all end a text"):
        plan_conversion(folder.write(tmp_path / "hf"))


def test_control_tokens_are_not_read_from_what_is_typed(tmp_path: Path) -> None:
    folder = make("llama")
    with open_vocabulary(outline(folder, tmp_path)) as vocab:
        end = vocab.tokenize("<|end|>", special=True)
        assert len(end) == 1
        assert vocab.kinds[end[0]] == Kind.CONTROL
        assert len(vocab.tokenize("<|end|>")) > 1
        assert len(vocab.tokenize("<tool>")) == 1


def test_the_chat_template_comes_along(tmp_path: Path) -> None:
    folder = make("llama")
    with open_vocabulary(outline(folder, tmp_path / "a")) as vocab:
        assert vocab.template == folder.settings["chat_template"]
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    folder.settings["chat_template"] = named
    with open_vocabulary(outline(folder, tmp_path / "b")) as vocab:
        assert vocab.template == "d"


def test_ordinary_tokens_without_a_row_are_refused(tmp_path: Path) -> None:
    folder = make("llama", extra_rows=0)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        folder.weights[name] = folder.weights[name][:-2]
    with pytest.raises(ModelError, match="has no row in the embedding"):
        plan_conversion(folder.write(tmp_path / "hf"))
