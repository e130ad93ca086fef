"""From messages to ids: the model's template, and what people typed kept as text."""

from __future__ import annotations

from collections.abc import Sequence

from ..common.errors import ModelError, UsageError
from ..common.prompts import Message
from .template import ChatTemplate, TemplateOwner
from .vocabulary import Vocabulary

_LONGEST = 2 << 20
"""Characters of a conversation: more than any context holds, less than templates may render."""


class ChatEncoder:
    """Encodes conversations: every part of the project does it here, and so in one way.

    Args:
        vocab: what makes ids of text.
        owner: whose template it is, if not the vocabulary's: a verifier of the same ids.

    Raises:
        ModelError: the template is none.
        ResourceError: no process can be started to render it.
    """

    def __init__(self, vocab: Vocabulary, owner: TemplateOwner | None = None) -> None:
        owner = owner or vocab
        self._vocab = vocab
        self._template = ChatTemplate(owner.template, owner.bos, owner.eos)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation, ending where the assistant's next message begins.

        A message that contains the name of a control token ("<|end|>") could end itself early and
        speak as somebody else. Such a text is tokenised apart from the template around it.

        Raises:
            ModelError: the template refuses the conversation.
            ResourceError: no process can be started to render it.
            UsageError: it is longer than any context.
        """
        length = sum(len(message["content"]) for message in messages)
        if length > _LONGEST:
            raise UsageError(f"the prompt has {length:,} characters, far too many; shorten it")
        vocab, render = self._vocab, self._template.render
        if not any(n in message["content"] for message in messages for n in vocab.control_names):
            return vocab.tokenize(render(messages), special=True)
        # Private-use characters stand for the contents while the template runs.
        marks = [f"\ue000{i}\ue001" for i in range(len(messages))]
        rest = render(
            [
                Message(role=message["role"], content=mark)
                for message, mark in zip(messages, marks, strict=True)
            ]
        )
        ids: list[int] = []
        for message, mark in zip(messages, marks, strict=True):
            before, found, rest = rest.partition(mark)
            if not found:
                raise ModelError(
                    "the chat template cannot be used with text that names control tokens"
                )
            ids += vocab.tokenize(before, special=True)
            ids += vocab.tokenize(message["content"], special=False)
        return ids + vocab.tokenize(rest, special=True)
