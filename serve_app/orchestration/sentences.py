"""Where the sentences of a text begin and end."""

from __future__ import annotations

import re

# East Asian stops end a sentence without a blank, unless a bracket or quotation mark closes after.
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(\[])|(?<=[。！？])(?![」』”’）])\s*|\n+")


def sentences(text: str) -> list[str]:
    """Sentences of a text, in order, white space trimmed."""
    return [text[start:end] for start, end in sentence_spans(text)]


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where each sentence of a text begins and ends, white space left out."""
    found, start = [], 0
    for stop, after in [*(each.span() for each in _END.finditer(text)), (len(text),) * 2]:
        if part := text[start:stop].strip():
            begin = start + text[start:stop].index(part)
            found.append((begin, begin + len(part)))
        start = after
    return found
