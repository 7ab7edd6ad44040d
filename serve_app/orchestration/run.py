"""One question on its way through the graph, and the parts of the house it meets there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from serve_app.domain import (
    Chunk,
    Decision,
    Delta,
    FormatOutcome,
    Generation,
    Lost,
    Message,
    ModelCall,
    Refusal,
    Release,
    RequestContext,
    Route,
    SearchQuery,
    ToolCall,
    Usage,
    wants_json,
)


class Router(Protocol):
    async def decide(
        self,
        context: RequestContext,
        messages: Sequence[Message],
        purse: Purse | None,
        collection: str = "",
    ) -> Decision:
        """Where a question goes; a model that is asked for it is paid by `purse`, if there is one:
        without, none is asked. `collection` is where an answer would be looked up; empty: the one
        of the settings."""
        ...

    async def may_bar(self, context: RequestContext) -> bool:
        """Whether some question of this tenant may not go where it wants to.

        Raises:
            TriviumError: Nobody knows.
        """
        ...


class Model(Protocol):
    """A language model: the expert, or the frontier's proxy."""

    def generate(
        self, context: RequestContext, generation: Generation
    ) -> AsyncGenerator[Delta]: ...


class Contract(Protocol):
    """What an adapter's answers must look like."""

    @property
    def structured(self) -> dict[str, Any] | None:
        """The engine's option that enforces what it can of it."""
        ...

    @property
    def complete(self) -> bool:
        """Whether what the engine enforces needs no check."""
        ...

    def violations(self, text: str) -> list[str]:
        """What is wrong, in plain words; empty when nothing is."""
        ...


class Adapter(Protocol):
    """A version of an adapter of the expert."""

    @property
    def release(self) -> Release: ...

    @property
    def contract(self) -> Contract | None: ...


class Adapters(Protocol):
    def current(self, name: str) -> Adapter | None:
        """The version of a name that serves now."""
        ...


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


class Bill(Protocol):
    """What one call of a model takes."""

    @property
    def id(self) -> str:
        """Of the call."""
        ...

    @property
    def model(self) -> str:
        """Which answers."""
        ...

    @property
    def usage(self) -> Usage:
        """So far; estimated, where nobody has counted it."""
        ...

    @property
    def overdrawn(self) -> bool:
        """Whether it has passed what may be paid for it."""
        ...

    @property
    def lost(self) -> Sequence[tuple[str, Usage]]:
        """What earlier tries took, and of which model."""
        ...

    def note(self, delta: Delta) -> None:
        """One more step of the answer."""
        ...

    async def lose(self, tries: Sequence[Lost]) -> None:
        """Tries broke off, and may be billed.

        Raises:
            BudgetExceeded: The next one may cost more than is left.
        """
        ...


class Purse(Protocol):
    """Who pays for an answer."""

    @property
    def bought(self) -> bool:
        """Whether it has paid, or may have to."""
        ...

    def paying(
        self, models: Sequence[str], purpose: str, generation: Generation
    ) -> AbstractAsyncContextManager[Bill]:
        """Around a call of the first of some models, in whose place the others may answer.

        Raises:
            BudgetExceeded: It may cost more than is left.
            LedgerUnavailable: It cannot be written down.
        """
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """What the caller asked.

    Attributes:
        pinned: The road the caller named, which no router overrules.
        max_tokens: The caller's bound on the answer; `None` leaves it to the road.
        options: Sampling parameters under their OpenAI names.
        adapter: The expert's adapter that the caller named.
        adapted: Parameters of the caller's that no road takes, and that an answer can do without.
    """

    messages: tuple[Message, ...]
    collection: str
    pinned: Route | None = None
    max_tokens: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    adapter: Adapter | None = None
    adapted: tuple[str, ...] = ()

    @property
    def only_frontier(self) -> bool:
        """Whether it brings tools or pictures, which no other road takes."""
        return "tools" in self.options or not all(each.plain for each in self.messages)

    @property
    def in_json(self) -> bool:
        """Whether the answer must be JSON."""
        return wants_json(self.options)

    @property
    def named(self) -> Route | None:
        """The road that it must take, whatever the router says."""
        return Route.FRONTIER if self.only_frontier else self.pinned


Piece = str | Refusal | ToolCall  # of an answer: text, a piece of a refusal or of a call


@dataclass(eq=False)
class Run:
    """The state of a run that lives outside the graph: what left for the client, what it cost.

    `emit` hands pieces to whoever iterates `pieces()`. Once the first of a stream has left, no road
    may take over from another; an answer that is sent whole leaves only at its end.

    Attributes:
        adapted: Parameters of the caller's that were not taken as they are, in order.
        stages: Milliseconds in each step of the graph.
        evidence: What was last retrieved; `None` when nothing was looked for.
        model: What was asked last, as `x-trivium-model` names it.
        beside: What costs and answers nothing: embeddings, the router's second opinion.
        formats: Answers that a contract held for, and whether they kept it.
    """

    context: RequestContext
    purse: Purse
    streaming: bool = True
    calls: list[ModelCall] = field(default_factory=list)
    beside: list[ModelCall] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)
    adapted: dict[str, None] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    evidence: tuple[Chunk, ...] | None = None
    decision: Decision | None = None
    model: str | None = None
    formats: list[tuple[Release, FormatOutcome]] = field(default_factory=list)
    started: bool = False
    _pieces: list[Piece] = field(default_factory=list)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: bool = False

    def degrade(self, why: str) -> None:
        """Something was done in another way than it should have been; each reason is told once."""
        if why not in self.degraded:
            self.degraded.append(why)

    def emit(self, piece: Piece) -> None:
        """Send a text, or a piece of a refusal or call, to the client."""
        if self.streaming and piece:
            self.started = True
            self._pieces.append(piece)
            self._moved.set()

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._moved.set()

    async def pieces(self) -> AsyncIterator[Piece]:
        """What was emitted, as it comes; texts that are waiting arrive as one."""
        while self._pieces or not self._ended:
            await self._moved.wait()
            self._moved.clear()
            waiting, self._pieces = self._pieces, []
            texts: list[str] = []
            for piece in waiting:
                if isinstance(piece, str):
                    texts.append(piece)
                    continue
                if texts:
                    yield "".join(texts)
                    texts = []
                yield piece
            if texts:
                yield "".join(texts)
