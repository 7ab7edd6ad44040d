"""The beginning of a bulk run: which files have changed since they were read."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from serve_app.retrieval.bulk import workers
from serve_app.retrieval.bulk.items import Origin
from serve_app.retrieval.bulk.workers import Blocks, Start
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.sources import MAX_BYTES, File

_FILES = 1000  # asked about together
# So much is read here, before Ray's workers have started: to be taken in, and to be compared.
_FEW = (2_000, 8 * 1024 * 1024)
_FEW_COMPARED = (30_000, 256 * 1024 * 1024)
# A file that was changed so lately may change again within the same moment of its clock.
_SETTLED_S = 2.0


class Changes:
    """Files to be read: a few as they are, many in Ray's object store.

    Args:
        few: Files, and bytes of them, that are few.

    Attributes:
        count, size: How many, and of how many bytes together.
        blocks: Where they are, if they are many; then Ray runs.
    """

    def __init__(self, start: Start, few: tuple[int, int]) -> None:
        self._start = start
        self._most = few
        self._few: list[Origin] = []
        self.count = 0
        self.size = 0
        self.blocks: Blocks | None = None

    @property
    def few(self) -> Sequence[Origin]:
        return self._few

    def add(self, origin: Origin) -> None:
        self.count += 1
        # What is too large is refused without being read.
        self.size += origin.size if origin.size <= MAX_BYTES else 0
        if self.blocks is not None:
            self.blocks.add(origin)
            return
        self._few.append(origin)
        if self.count > self._most[0] or self.size > self._most[1]:
            self._start()
            self.blocks = Blocks()
            for each in self._few:
                self.blocks.add(each)
            self._few = []


@dataclass(slots=True)
class Listing:
    """What a run has found.

    Attributes:
        sources: Of the files, in order.
        files: How many.
        changed: Those to be read.
        unsure: Those whose content is to be compared with what it was, though they look the same.
    """

    changed: Changes
    unsure: Changes
    sources: dict[str, None] = field(default_factory=dict)
    files: int = 0


class Look:
    """Compares files as they are listed with what is registered of them.

    Args:
        hold: Has a source for the run, before anything is noted of its files.
        begin: Notes files that are about to be read.
        verify: Believe neither times nor etags.
    """

    def __init__(
        self,
        registry: Registry,
        collection: str,
        tenant: str,
        start: Start,
        hold: Callable[[str], Awaitable[None]],
        begin: Callable[[str, Sequence[Origin]], Awaitable[None]],
        *,
        verify: bool,
    ) -> None:
        self._registry = registry
        self._of = (collection, tenant)
        self._hold = hold
        self._begin = begin
        self._verify = verify
        self.found = Listing(Changes(start, _FEW), Changes(start, _FEW_COMPARED))

    async def over(self, files: Iterator[File]) -> None:
        """List all files; none is read but for a comparison that was asked for."""
        while part := await asyncio.to_thread(list, itertools.islice(files, _FILES)):
            by_source: dict[str, list[File]] = {}
            for each in part:
                by_source.setdefault(each.source, []).append(each)
            for source, listed in by_source.items():
                if source not in self.found.sources:
                    await self._hold(source)
                    self.found.sources[source] = None
                await self._compare(source, [_origin(each) for each in listed])
            self.found.files += len(part)

    async def closer(self, reach: workers.Reach) -> None:
        """Read what looks the same, and count what is not among what has changed."""
        unsure = self.found.unsure
        if unsure.blocks is None:
            some = await asyncio.to_thread(lambda: list(filter(workers.differs, unsure.few)))
            await self._add(some)
            return
        async for part in workers.differing(unsure.blocks, reach):
            await self._add(part)

    async def _compare(self, source: str, origins: Sequence[Origin]) -> None:
        seen = [each.seen for each in origins]
        listed = await self._registry.runs.listed(*self._of, source, seen)
        pairs = list(zip(origins, listed, strict=True))
        told = [(replace(e, sha256=one.sha256, known=one.known), one.same) for e, one in pairs]
        await self._add([each for each, same in told if not same])
        if self._verify:
            for each, same in told:
                if same:
                    self.found.unsure.add(each)

    async def _add(self, origins: Sequence[Origin]) -> None:
        by_source: dict[str, list[Origin]] = {}
        for each in origins:
            by_source.setdefault(each.source, []).append(each)
        for source, some in by_source.items():
            await self._begin(source, some)
            for each in some:
                self.found.changed.add(each)


def _origin(file: File) -> Origin:
    lately = time.time() - file.mtime < _SETTLED_S
    mtime = 0.0 if lately and not file.etag else file.mtime
    place = file.place or file.url
    return Origin(file.url, file.source, file.size, file.stem, place, mtime, file.etag, file.allow)
