"""A Hugging Face tokenizer as the vocabulary keys of a GGUF file.

Two kinds are known: byte-level BPE (Llama 3, Qwen, SmolLM2) and SentencePiece BPE (Llama 2,
TinyLlama, Gemma). Whether the result splits text in the same way is not argued here but tried,
after every conversion, in `llama_tokens.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...common.errors import DataError, ModelError
from ...common.files import read_bounded
from ...lm.vocabulary import Kind
from .checkpoint import Checkpoint
from .reference import reference_tokenizer
from .sentencepiece import SPACE, SentencePieceModel, read_sentencepiece

_MOST_TOKENS = 2_000_000
_LONGEST_TEMPLATE = 1 << 20  # bytes
_GAPS = 4096  # ids without a text, beyond as many as have one: each becomes a text of its own


@dataclass(frozen=True)
class TokenizerData:
    """A vocabulary in id order, and what llama.cpp must know to use it."""

    model: str
    pre: str
    tokens: tuple[str, ...]
    kinds: tuple[Kind, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    special: Mapping[str, int] = field(default_factory=dict)
    end_ids: tuple[int, ...] = ()
    add_bos: bool = False
    add_eos: bool = False
    space_prefix: bool = False
    template: str = ""

    def padded(self, rows: int) -> TokenizerData:
        """The same with exactly `rows` tokens, one for each row of the embedding.

        Raises:
            ModelError: ordinary tokens have no row.
        """
        lost = [i for i in range(rows, len(self.tokens)) if self.kinds[i] == Kind.NORMAL]
        if lost:
            raise ModelError(
                f"tokenizer: id {lost[0]} has no row in the embedding, which has {rows}"
            )
        blank = range(len(self.tokens), rows)
        return replace(
            self,
            tokens=(*self.tokens, *(f"[PAD{i}]" for i in blank))[:rows],
            kinds=(*self.kinds, *(Kind.UNUSED for _ in blank))[:rows],
            scores=(*self.scores, *(-1000.0 for _ in blank))[:rows] if self.scores else (),
            special={name: i for name, i in self.special.items() if i < rows},
            end_ids=tuple(i for i in self.end_ids if i < rows),
        )

    def with_ends(self, more: Sequence[int]) -> TokenizerData:
        """The same with keys for end ids that llama.cpp does not know by their name.

        Raises:
            ModelError: there are more of them than keys.
        """
        if len(more) > 2:
            raise ModelError(
                f"tokenizer: ids {', '.join(map(str, more))} all end a text; llama.cpp takes two"
            )
        return replace(
            self, special={**self.special, **dict(zip(("eot", "eom"), more, strict=False))}
        )


def read_tokenizer(checkpoint: Checkpoint) -> TokenizerData:
    """The vocabulary of a model folder.

    Raises:
        ModelError: no tokenizer, or one of a kind that cannot be converted.
    """
    content = checkpoint.optional_json("tokenizer.json")
    proto = checkpoint.folder / "tokenizer.model"
    settings = checkpoint.optional_json("tokenizer_config.json")
    if not content and not proto.exists():
        raise ModelError(f"{checkpoint.folder}: has neither tokenizer.json nor tokenizer.model")
    try:
        if not content or _is_sentencepiece(content):
            pieces = read_sentencepiece(proto) if proto.exists() else None
            data = _sentencepiece(content, pieces)
        else:
            data = _byte_level(content)
        special, ends = _special_ids(checkpoint, settings, data)
        template = _read_template(checkpoint, settings)
        "".join((*data.tokens, *data.merges, template)).encode()  # half a character cannot be
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ModelError(f"{checkpoint.folder}: its tokenizer is damaged: {error!r}") from error
    add_bos, add_eos = _added_ends(checkpoint, settings, special)
    return replace(
        data,
        special=special,
        end_ids=ends,
        add_bos=add_bos,
        add_eos=add_eos,
        template=template,
    )


def _parts(step: object, list_name: str) -> list[dict[str, Any]]:
    """The steps of a `Sequence`, or the one step, or none."""
    if not isinstance(step, dict):
        return []
    if step.get("type") == "Sequence":
        return [part for inner in step[list_name] for part in _parts(inner, list_name)]
    return [step]


def _is_sentencepiece(content: Mapping[str, Any]) -> bool:
    model = content.get("model") or {}
    kind = model.get("type") or ("BPE" if "merges" in model else "of no type")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if kind == "BPE" and model.get(key):  # llama.cpp has none, and odd ones abort `tokenizers`
            raise ModelError(f"tokenizer.json: a BPE with {key} is not supported")
    before = [
        str(step.get("type")) for step in _parts(content.get("pre_tokenizer"), "pretokenizers")
    ]
    if kind == "BPE" and "ByteLevel" in before:
        return False
    if kind == "BPE" and model.get("byte_fallback"):
        return True
    raise ModelError(
        f"tokenizer.json: a tokenizer of type {kind} ({' + '.join(before) or 'no pre-tokenizer'})"
        " is not supported; byte-level BPE and SentencePiece BPE are"
    )


_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_PRE_TOKENIZERS = {
    (f"{_SHORT}|{_LETTERS}|\\p{{N}}{{1,3}}|{_REST}", "bytes"): "llama-bpe",
    (f"{_SHORT}|{_LETTERS}|\\p{{N}}|{_REST}", "bytes"): "qwen2",
    ("digit", "words"): "smollm",
    ("words",): "gpt-2",
}
"""How a text is cut before merging, and llama.cpp's name for the same rule."""


def _pre_name(content: Mapping[str, Any]) -> str:
    """llama.cpp's name of the pre-tokenizer."""
    rule: list[str] = []
    for step in _parts(content.get("pre_tokenizer"), "pretokenizers"):
        match step.get("type"):
            case "Split":
                pattern = step["pattern"]
                rule.append(str(pattern.get("Regex", pattern.get("String"))))
            case "Digits" if step.get("individual_digits"):
                rule.append("digit")
            case "ByteLevel" if not step.get("add_prefix_space"):
                rule.append("words" if step.get("use_regex", True) else "bytes")
            case other:
                rule.append(str(other))
    name = _PRE_TOKENIZERS.get(tuple(rule))
    if name is None:
        raise ModelError(
            f"tokenizer.json: llama.cpp has no name for the pre-tokenizer {' + '.join(rule)[:200]};"
            f" known are those of {', '.join(_PRE_TOKENIZERS.values())}"
        )
    return name


def _added(content: Mapping[str, Any]) -> dict[int, tuple[str, Kind]]:
    """Added tokens: special ones are never read from what a user types, others are."""
    return {
        int(token["id"]): (
            str(token["content"]),
            Kind.CONTROL if token.get("special") else Kind.USER_DEFINED,
        )
        for token in content.get("added_tokens") or []
    }


def _in_id_order(texts: Mapping[int, str]) -> tuple[str, ...]:
    """All texts, with a name of its own for an id that no text has."""
    if not texts or max(texts) >= min(_MOST_TOKENS, 2 * len(texts) + _GAPS) or min(texts) < 0:
        raise ModelError("tokenizer: it has no tokens, or more than any model")
    return tuple(texts.get(i, f"[UNUSED{i}]") for i in range(max(texts) + 1))


def _merge_pairs(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Merges in order of rank; files write them as "a b" or as ["a", "b"]."""
    pairs = []
    for merge in model["merges"]:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        pairs.append((str(left), str(right)))
    return pairs


def _byte_level(content: Mapping[str, Any]) -> TokenizerData:
    model, added = content["model"], _added(content)
    texts = {int(i): str(text) for text, i in model["vocab"].items()}
    known = set(texts) | set(added)
    texts |= {i: text for i, (text, _) in added.items()}
    tokens = _in_id_order(texts)
    kinds = tuple(
        added[i][1] if i in added else Kind.NORMAL if i in known else Kind.UNUSED
        for i in range(len(tokens))
    )
    merges = tuple(f"{left} {right}" for left, right in _merge_pairs(model))
    return TokenizerData("gpt2", _pre_name(content), tokens, kinds, merges=merges)


def _sentencepiece(content: Mapping[str, Any], proto: SentencePieceModel | None) -> TokenizerData:
    """From tokenizer.model where there is one, else from the ranks of tokenizer.json's merges."""
    added = _added(content)
    texts: dict[int, str] = {}
    scores: dict[int, float] = {}
    kinds: dict[int, Kind] = {}
    if proto is not None:
        for i, piece in enumerate(proto.pieces):
            texts[i], scores[i], kinds[i] = piece.text, piece.score, Kind(piece.kind)
        prefix = proto.add_dummy_prefix
    else:
        model = content["model"]
        rank: dict[str, int] = {}
        for n, (left, right) in enumerate(_merge_pairs(model)):
            rank.setdefault(left + right, n)
        for text, i in model["vocab"].items():
            is_byte = len(text) == 6 and text.startswith("<0x") and text.endswith(">")
            texts[int(i)] = str(text)
            scores[int(i)] = -float(rank.get(text, len(rank)))
            kinds[int(i)] = Kind.BYTE if is_byte else Kind.NORMAL
        unknown = model.get("unk_token")
        if unknown in model["vocab"]:
            kinds[int(model["vocab"][unknown])] = Kind.UNKNOWN
        prefix = _adds_prefix(content)
    for i, (text, kind) in added.items():
        if kinds.get(i) != Kind.UNKNOWN:
            texts[i], kinds[i] = text, kind
            scores[i] = -1000.0
    tokens = _in_id_order(texts)
    all_kinds = tuple(kinds.get(i, Kind.UNUSED) for i in range(len(tokens)))
    in_bytes = {text for text, kind in zip(tokens, all_kinds, strict=True) if kind == Kind.BYTE}
    for byte in range(256):
        if f"<0x{byte:02X}>" not in in_bytes:  # llama.cpp ends the process where one is missing
            raise ModelError(f"tokenizer: the piece <0x{byte:02X}> is missing")
    return TokenizerData(
        model="llama",
        pre="default",
        # llama.cpp looks for user-defined tokens in the text as it was typed
        tokens=tuple(
            text.replace(SPACE, " ") if kind == Kind.USER_DEFINED else text
            for text, kind in zip(tokens, all_kinds, strict=True)
        ),
        kinds=all_kinds,
        scores=tuple(scores.get(i, -1000.0) for i in range(len(tokens))),
        space_prefix=prefix,
    )


def _adds_prefix(content: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text: by a normalizer, or by a Metaspace step."""
    if any(
        step.get("type") == "Prepend" for step in _parts(content.get("normalizer"), "normalizers")
    ):
        return True
    return any(
        step.get("type") == "Metaspace"
        and (step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space", True))
        for step in _parts(content.get("pre_tokenizer"), "pretokenizers")
    )


def _text_of(token: object) -> str | None:
    """A token in tokenizer_config.json: its text, or an object with it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _special_ids(
    checkpoint: Checkpoint, settings: Mapping[str, Any], data: TokenizerData
) -> tuple[dict[str, int], tuple[int, ...]]:
    """Ids of bos, eos, unk and pad, and every id that ends a generation, eos first."""
    ids = {text: i for i, text in enumerate(data.tokens)}
    text_config = checkpoint.config.get("text_config")
    config = {**checkpoint.config, **(text_config if isinstance(text_config, dict) else {})}
    generation = checkpoint.optional_json("generation_config.json")
    special: dict[str, int] = {}
    for name in ("bos", "eos", "unk", "pad"):
        text = _text_of(settings.get(f"{name}_token"))
        if text is not None and text in ids:
            special[name] = ids[text]
    ends: list[object] = [special["eos"]] if "eos" in special else []
    for source in (generation, config):
        value = source.get("eos_token_id")
        ends += value if isinstance(value, list) else [value]
        for name in ("bos", "pad"):
            number = source.get(f"{name}_token_id")
            if isinstance(number, int) and 0 <= number < len(data.tokens):
                special.setdefault(name, number)
    kept = tuple(dict.fromkeys(i for i in ends if isinstance(i, int) and 0 <= i < len(data.tokens)))
    if kept:
        special.setdefault("eos", kept[0])
    return special, kept


def _added_ends(
    checkpoint: Checkpoint, settings: Mapping[str, Any], special: Mapping[str, int]
) -> tuple[bool, bool]:
    """Whether the tokenizer puts bos before and eos behind a text of its own accord."""
    if not (checkpoint.folder / "tokenizer.json").exists():
        first, last = True, False  # SentencePiece models come with a bos
    else:
        reference = reference_tokenizer(checkpoint)
        plain = list(reference.encode("a", add_special_tokens=False).ids)
        whole = list(reference.encode("a", add_special_tokens=True).ids)
        first = whole[:1] == [special.get("bos")] and whole[:1] != plain[:1]
        last = whole[-1:] == [special.get("eos")] and whole[-1:] != plain[-1:]
    given_first, given_last = settings.get("add_bos_token"), settings.get("add_eos_token")
    return (
        given_first if isinstance(given_first, bool) else first,
        given_last if isinstance(given_last, bool) else last,
    )


def _read_template(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> str:
    """The chat template: a file of its own, or a key, where it may be one of several by name."""
    path = checkpoint.folder / "chat_template.jinja"
    if path.exists():
        try:
            return read_bounded(path, _LONGEST_TEMPLATE).decode("utf-8")
        except DataError:
            raise ModelError(f"{path}: is too large for a chat template") from None
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be read: {error}") from error
    template = settings.get("chat_template") or checkpoint.optional_json("chat_template.json").get(
        "chat_template"
    )
    if isinstance(template, list):
        named = {str(entry.get("name")): entry.get("template") for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else ""
