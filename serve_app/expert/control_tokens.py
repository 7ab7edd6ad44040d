"""Control tokens that somebody types are text: they begin no turn and end none.

A chat template joins what was said with tokens that structure it, such as `<|im_end|>`, and the
tokenizer reads such a token wherever it stands. So each one that stands in a content is cut before
the template is applied: after its first character goes a mark, at which the rendered prompt is
taken apart again. The pieces are tokenized alone, and none of them holds the typed token whole. A
prompt without control tokens in its contents is tokenized as ever.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self


class ControlTokens:
    """Those of one tokenizer.

    Args:
        tokens: What it reads as structure.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        # Of one character there is nothing to cut; white space structures nothing.
        known = sorted(each for each in set(tokens) if len(each) > 1 and each.strip())
        rests: dict[str, list[str]] = {}
        for each in known:
            rests.setdefault(re.escape(each[0]), []).append(re.escape(each[1:]))
        # The first character wherever one begins, also inside of another: no piece may hold any.
        firsts = [f"{first}(?={'|'.join(every)})" for first, every in rests.items()]
        self._first = re.compile("|".join(firsts)) if firsts else None
        # Nobody can type it, as nobody outside knows it. It is no white space, which templates cut.
        self._mark = f"\ue000{secrets.token_hex(16)}\ue000"

    @classmethod
    def of(cls, tokenizer: Any) -> Self:
        """Those of a tokenizer of transformers: its special tokens, and of the others that were
        added to its vocabulary those that its chat template writes.
        """
        template = str(tokenizer.chat_template or "")
        added = tokenizer.added_tokens_decoder.values()
        structure = (each.content for each in added if each.special or each.content in template)
        return cls([*structure, *tokenizer.all_special_tokens])

    def marked(self, text: str) -> str:
        """The text with every control token in it cut."""
        if self._first is None:
            return text
        places = [found.end() for found in self._first.finditer(text)]
        pieces = [text[a:b] for a, b in zip([0, *places], [*places, None], strict=True)]
        return self._mark.join(pieces)

    def turns(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Messages of the chat API with their contents marked."""
        return [
            {
                **each,
                "content": self.marked(said) if isinstance(said := each["content"], str) else said,
            }
            for each in messages
        ]

    def pieces(self, rendered: str) -> list[str]:
        """A rendered prompt, taken apart where a typed token was cut."""
        return rendered.split(self._mark)

    def encoded(self, tokenizer: Any, rendered: str) -> list[int]:
        """The tokens of a rendered prompt."""
        encoded = tokenizer(self.pieces(rendered), add_special_tokens=False)["input_ids"]
        return [token for ids in encoded for token in ids]
