"""What is searched for, and what several searches found together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain, zip_longest
from zoneinfo import ZoneInfo

from serve_app.domain import Chunk, SearchQuery
from serve_app.orchestration import timespans

_WIDER = 2  # times as many chunks


async def search_query(
    text: str, times: Sequence[str], zone: ZoneInfo, k: int, *, recent: bool, wide: bool
) -> SearchQuery:
    """What to search for. A wide one looks for more, of any time.

    Args:
        times: Texts whose words of time count; those of the first that has some.
    """
    query = SearchQuery(text, k * _WIDER if wide else k, recent=recent)
    # What does not change is as true today as on the day it was written.
    if wide or not recent:
        return query
    now = datetime.now(UTC)
    spans = (timespans.find(each, now, zone) for each in times)
    span = await asyncio.to_thread(lambda: next(filter(None, spans), None))
    if span is None:
        return query
    return replace(query, since=span.start.timestamp(), until=_closed(span.end))


def in_turn(found: Sequence[Sequence[Chunk]]) -> list[Chunk]:
    """The best of each search, then the second of each, and so on; each chunk once, as the query
    that it is nearest to found it."""
    nearest: dict[str, Chunk] = {}
    for each in chain.from_iterable(zip_longest(*found)):
        if each and (each.id not in nearest or nearest[each.id].relevance < each.relevance):
            nearest[each.id] = each
    return list(nearest.values())


def _closed(end: datetime) -> float:
    """What is written while the question is under way is still in a span that ends now."""
    now = datetime.now(UTC)
    return (
        end + timedelta(minutes=1) if abs(now - end) < timedelta(minutes=1) else end
    ).timestamp()
