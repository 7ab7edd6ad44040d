"""One question on its way through the graph, and the parts of the house it meets there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serve_app.domain import (
    Chunk,
    Decision,
    Delta,
    Generation,
    Message,
    ModelCall,
    RequestContext,
    Route,
    SearchQuery,
)


class Router(Protocol):
    async def decide(self, context: RequestContext, messages: Sequence[Message]) -> Decision: ...


class Model(Protocol):
    """A language model: the expert, or the frontier's proxy."""

    def generate(self, context: RequestContext, generation: Generation) -> AsyncIterator[Delta]: ...


class Knowledge(Protocol):
    async def search(
        self, context: RequestContext, collection: str, query: SearchQuery
    ) -> list[Chunk]: ...

    async def whole(
        self, context: RequestContext, collection: str, max_tokens: int
    ) -> list[Chunk] | None:
        """Everything, if it has at most so many tokens."""
        ...

    async def nearness(
        self, context: RequestContext, collection: str, query: str, texts: Sequence[str]
    ) -> list[float]:
        """The cosine of each text with the query."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """What the caller asked.

    Attributes:
        pinned: The road the caller named, which no router overrules.
        max_tokens: The caller's bound on the answer; `None` leaves it to the road.
        options: Sampling parameters under their OpenAI names.
    """

    messages: tuple[Message, ...]
    collection: str
    pinned: Route | None = None
    max_tokens: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Run:
    """The state of a run that lives outside the graph: what left for the client, what it cost.

    `emit` hands text to whoever iterates `text()`. Once the first piece of a stream has left, no
    road may take over from another; an answer that is sent whole leaves only at its end.
    """

    context: RequestContext
    streaming: bool = True
    calls: list[ModelCall] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)
    decision: Decision | None = None
    started: bool = False
    _pieces: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)

    def emit(self, piece: str) -> None:
        """Send text to the client."""
        if piece and self.streaming:
            self.started = True
            self._pieces.put_nowait(piece)

    def end(self) -> None:
        """No more text will come."""
        self._pieces.put_nowait(None)

    async def text(self) -> AsyncIterator[str]:
        """What was emitted, as it comes; pieces that are waiting arrive as one."""
        while (piece := await self._pieces.get()) is not None:
            pieces = [piece]
            while not self._pieces.empty():
                following = self._pieces.get_nowait()
                if following is None:
                    yield "".join(pieces)
                    return
                pieces.append(following)
            yield "".join(pieces)
