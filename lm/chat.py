"""From messages to ids: the model's template, and what people typed kept as text."""

from __future__ import annotations

from collections.abc import Sequence

from ..common.errors import ModelError, UsageError
from .template import ChatTemplate, Message
from .vocabulary import Vocabulary

__all__ = ["encode_chat"]

_LONGEST = 2 << 20
"""Characters of a conversation: more than any context holds, less than templates may render."""


def encode_chat(
    vocab: Vocabulary, template: ChatTemplate, messages: Sequence[Message]
) -> list[int]:
    """Ids of a conversation, ending where the assistant's next message begins.

    A message that contains the name of a control token ("<|end|>") could end itself early and
    speak as somebody else. Such a text is tokenised apart from the template around it.

    Raises:
        ModelError: the template refuses the conversation.
        UsageError: it is longer than any context.
    """
    length = sum(len(message["content"]) for message in messages)
    if length > _LONGEST:
        raise UsageError(f"the prompt has {length:,} characters, far too many; shorten it")
    if not any(name in message["content"] for message in messages for name in vocab.control_names):
        return vocab.tokenize(template.render(messages), special=True)
    # Private-use characters stand for the contents while the template runs.
    marks = [f"\ue000{i}\ue001" for i in range(len(messages))]
    blanked: list[Message] = [
        {"role": message["role"], "content": mark}
        for message, mark in zip(messages, marks, strict=True)
    ]
    rest = template.render(blanked)
    ids: list[int] = []
    for message, mark in zip(messages, marks, strict=True):
        before, found, rest = rest.partition(mark)
        if not found:
            raise ModelError("the chat template cannot be used with text that names control tokens")
        ids += vocab.tokenize(before, special=True)
        ids += vocab.tokenize(message["content"], special=False)
    return ids + vocab.tokenize(rest, special=True)
