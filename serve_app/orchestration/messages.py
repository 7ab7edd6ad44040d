"""The turns that a model is asked with: our instructions, the conversation, and the evidence in it.

Evidence is what others wrote. It never stands in a system message, which models obey, but at the
head of a user's turn, each source behind a mark that no author of a document can know: text that
looks like another source does not carry it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import replace

from serve_app.domain import Chunk, Message
from serve_app.orchestration.prompts import SHIPPED, Prompt

_KEY = secrets.token_bytes(32)  # of this process
_MARK = 12  # hexadecimal digits


def instructed(
    messages: Sequence[Message],
    instructions: Prompt,
    sources: Sequence[Chunk] = (),
    *,
    first: bool = False,
    tools: bool = False,
    json: bool = False,
    sources_as: Prompt = SHIPPED["sources"],
) -> tuple[Message, ...]:
    """A conversation with our instructions, and sources where there are any.

    The caller's own instructions follow ours in one system message: many templates take only one.

    Args:
        first: Put the sources before the whole conversation, so that other questions about the same
            ones begin with the same bytes, which an engine has in its prefix cache. Else they stand
            before the last question, and what was said earlier keeps its place.
        tools: Whether the model may call tools.
        json: Whether its answer must be JSON.
        sources_as: How sources are told.
    """
    ours = instructions.render(sources=bool(sources), tools=tools, json=json)
    theirs = [m.content for m in messages if m.role in ("system", "developer")]
    rest = [m for m in messages if m.role not in ("system", "developer")]
    if sources:
        of_user = [number for number, each in enumerate(rest) if each.role == "user"]
        at = of_user[0 if first else -1]
        rest[at] = _before(rest[at], told(sources, sources_as))
    # Through an adapter there are none of ours: its weights hold them.
    said = [each for each in (ours, *theirs) if each]
    return (Message("system", "\n\n".join(said)), *rest) if said else tuple(rest)


def told(sources: Sequence[Chunk], sources_as: Prompt = SHIPPED["sources"]) -> str:
    """Sources as a model reads them, numbered by us."""
    return sources_as.render(sources=sources, mark=_mark(sources))


def _mark(sources: Sequence[Chunk]) -> str:
    """The same for the same sources, for the prefix cache; for others it cannot be foretold."""
    digest = hmac.new(_KEY, digestmod=hashlib.sha256)
    for source in sources:
        for text in (source.title, source.text):
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:_MARK]


def _before(message: Message, text: str) -> Message:
    """A turn with a text before what it says."""
    parts = (text, *message.parts) if message.parts else ()
    return replace(message, content=f"{text}\n\n{message.content}", parts=parts)
