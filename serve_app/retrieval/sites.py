"""A website by its sitemap: which pages there are, and when each was changed last."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from lxml import etree

from serve_app.errors import UnprocessableDocument
from serve_app.fetching import Content, Unfetchable

_MOST_PAGES = 100_000
_MOST_MAPS = 1000
_MOST_BYTES = 60_000_000  # of a sitemap that is unpacked; the protocol allows 50 MB

Fetch = Callable[[str], Awaitable[Content]]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a site.

    Attributes:
        changed: When, as the sitemap says; empty where it does not.
    """

    url: str
    changed: str = ""


async def pages(sitemap: str, fetch: Fetch) -> list[Page]:
    """The pages that a sitemap, or the sitemaps of an index, name; those of its host alone.

    Raises:
        UnprocessableDocument: One cannot be had, is none, or names too many.
    """
    found: dict[str, Page] = {}
    left, seen = [sitemap], {sitemap}
    while left:
        here = left.pop()
        try:
            content = await fetch(here)
        except Unfetchable as error:
            raise UnprocessableDocument(f"{here}: cannot be fetched: {error}") from None
        maps, some = _read(here, _unpacked(here, content.data))
        found |= {each.url: each for each in some if _of(each.url, sitemap)}
        new = [url for url in maps if _of(url, sitemap) and url not in seen]
        seen.update(new)
        left += new
        if len(found) > _MOST_PAGES or len(seen) > _MOST_MAPS:
            raise UnprocessableDocument(f"{sitemap}: names more than {_MOST_PAGES:,} pages")
    if not found:
        raise UnprocessableDocument(f"{sitemap}: names no page of its own host")
    return list(found.values())


def _read(url: str, data: bytes) -> tuple[list[str], list[Page]]:
    """Other sitemaps, and pages."""
    # No entity is followed, and nothing is fetched.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError):
        raise UnprocessableDocument(f"{url}: is no sitemap: not valid XML") from None
    maps: list[str] = []
    some: list[Page] = []
    for each in root.iterchildren("{*}sitemap", "{*}url"):
        where = (each.findtext("{*}loc") or "").strip()
        if etree.QName(each).localname == "sitemap":
            maps.append(where)
        else:
            some.append(Page(where, (each.findtext("{*}lastmod") or "").strip()))
    return maps, some


def _unpacked(url: str, data: bytes) -> bytes:
    if not data.startswith(b"\x1f\x8b"):
        return data
    unpacking = zlib.decompressobj(wbits=31)
    try:
        found = unpacking.decompress(data, _MOST_BYTES)
    except zlib.error:
        raise UnprocessableDocument(f"{url}: is packed, and damaged") from None
    if unpacking.unconsumed_tail:
        raise UnprocessableDocument(f"{url}: has more than {_MOST_BYTES:,} bytes unpacked")
    return found


def _of(url: str, sitemap: str) -> bool:
    try:
        one, other = urlsplit(url), urlsplit(sitemap)
    except ValueError:
        return False
    return (one.scheme, one.netloc) == (other.scheme, other.netloc)
