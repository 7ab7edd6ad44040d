"""What models write, in whole characters.

JSON can carry half of a surrogate pair, which no encoding can: one such from a provider must break
neither the answer nor the ledger. Halves that meet again across two pieces become one character;
any other is replaced by U+FFFD.
"""

from __future__ import annotations

import codecs
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from serve_app.domain import Delta, ToolCall

_UTF16 = "utf-16-le"
_Decoder = codecs.getincrementaldecoder(_UTF16)


class _Text:
    """One text that comes in pieces."""

    def __init__(self) -> None:
        self._decoder = _Decoder("replace")

    def piece(self, text: str, *, last: bool = False) -> str:
        return self._decoder.decode(text.encode(_UTF16, "surrogatepass"), last)


async def whole(deltas: AsyncGenerator[Delta]) -> AsyncGenerator[Delta]:
    """The same steps of an answer, in whole characters."""
    said, refused = _Text(), _Text()
    arguments: defaultdict[int, _Text] = defaultdict(_Text)
    broken = False
    async with aclosing(deltas):
        async for delta in deltas:
            broken = broken or not _encodable(delta)
            if broken:
                last = delta.finish_reason is not None
                calls = [_call(each, arguments[each.index]) for each in delta.tool_calls]
                if last:
                    rests = {index: each.piece("", last=True) for index, each in arguments.items()}
                    calls += [
                        ToolCall(index, "", "", rest) for index, rest in rests.items() if rest
                    ]
                delta = replace(
                    delta,
                    text=said.piece(delta.text, last=last),
                    refusal=refused.piece(delta.refusal, last=last),
                    provider_id=delta.provider_id and _Text().piece(delta.provider_id, last=True),
                    tool_calls=tuple(calls),
                )
            yield delta


def _call(call: ToolCall, arguments: _Text) -> ToolCall:
    return replace(
        call,
        id=_Text().piece(call.id, last=True),
        name=_Text().piece(call.name, last=True),
        arguments=arguments.piece(call.arguments),
    )


def _encodable(delta: Delta) -> bool:
    calls = [text for call in delta.tool_calls for text in (call.id, call.name, call.arguments)]
    try:
        "".join((delta.text, delta.refusal, delta.provider_id or "", *calls)).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
