"""Of two streams, the one that speaks first (Dean & Barroso, The Tail at Scale, CACM 2013).

The second is begun when the first has said nothing for a while, or has failed. Each runs in a task
of its own, so that the deadlines and spans inside it stay its own; the slower one is cancelled as
soon as the other speaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from serve_app.errors import InvalidRequest, Overloaded, Unavailable

T = TypeVar("T")


@dataclass(eq=False)
class _Contender(Generic[T]):
    """One of the streams, and what it has given so far and nobody has taken."""

    stream: AsyncGenerator[T]
    moved: asyncio.Event  # of both: one of them has something new
    given: list[T] = field(default_factory=list)
    over: bool = False
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            async with aclosing(self.stream):
                async for item in self.stream:
                    self.given.append(item)
                    self.moved.set()
        except Exception as error:
            self.error = error
        finally:
            self.over = True
            self.moved.set()


async def hedged(
    first: Callable[[], AsyncGenerator[T]],
    second: Callable[[], AsyncGenerator[T]],
    after_s: float,
    speaks: Callable[[T], bool],
) -> AsyncGenerator[T]:
    """All items of the one that speaks first.

    Args:
        after_s: How long the first may say nothing before the second is begun.
        speaks: Whether an item says something; those before it come with it.

    Raises:
        Exception: What the one that spoke raised in the end; where neither spoke, what the second
            one did, unless that refuses and the first one was away. The first one's failure counts
            where the second would not help.
    """
    moved = asyncio.Event()
    both = [_Contender(first(), moved)]
    try:
        with_second_at = asyncio.get_running_loop().time() + after_s
        while (chosen := _chosen(both, speaks)) is None:
            moved.clear()
            alone = len(both) == 1
            try:
                async with asyncio.timeout_at(with_second_at if alone else None):
                    # The first one's end leaves nothing to wait for.
                    if not (alone and both[0].over):
                        await moved.wait()
                        continue
            except TimeoutError:
                pass
            both.append(_Contender(second(), moved))
        for each in both:
            if each is not chosen:
                each.task.cancel()
        while True:
            moved.clear()
            given, chosen.given = chosen.given, []
            for item in given:
                yield item
            if chosen.over and not chosen.given:
                break
            await moved.wait()
        if chosen.error:
            raise chosen.error
    finally:
        for each in both:
            # Whoever is leaving already is left to settle what it took.
            if not each.task.cancelling():
                each.task.cancel()
        await asyncio.gather(*(each.task for each in both), return_exceptions=True)


def _chosen(both: list[_Contender[T]], speaks: Callable[[T], bool]) -> _Contender[T] | None:
    """Whose items are taken, if that is clear by now."""
    for each in both:
        if any(map(speaks, each.given)) or (each.over and each.error is None):
            return each
    if not all(each.over for each in both):
        return None
    first, *others = both
    if others:
        return first if isinstance(others[0].error, InvalidRequest) else others[0]
    # What one model refuses another may take.
    helped = isinstance(first.error, Unavailable | Overloaded | InvalidRequest)
    return None if helped else first
