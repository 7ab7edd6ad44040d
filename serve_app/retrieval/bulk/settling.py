"""The end of a bulk run: how the reading of each file ended, and what is gone.

What is gone is removed last, so that a document which has moved from file to file is never missing;
and only where all was read, so that nothing goes that could not be seen.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.retrieval.bulk import items, workers
from serve_app.retrieval.bulk.intake import Intake, Run, patiently
from serve_app.retrieval.bulk.items import Outcome
from serve_app.retrieval.bulk.spool import Spool
from serve_app.retrieval.port import Port
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import Entry
from serve_app.retrieval.registry.meetings import NOTHING
from serve_app.retrieval.registry.runs import Ended, FileState
from serve_app.retrieval.writing import Writer

_FILES = 500  # noted together
_DOCUMENTS = 200  # removed together


class Settling:
    """What a run comes to.

    Attributes:
        problems: What could not be read or taken, a line each.
        left_out: What is not in the documents of a file that was read, a line for each file.
        files: How many have been read.
        size, chunks: How far it is: bytes that have been read, and chunks embedded.
        embedded, embedded_tokens, removed: Chunks, so far.
        change: By how much what is in force grows.
    """

    def __init__(self, run: Run, store: Port, registry: Registry) -> None:
        self._run = run
        self._registry = registry
        self._writer = Writer(store, registry)
        self._open: dict[tuple[str, str], Outcome] = {}
        self._ended: list[Ended] = []
        self._late = Spool()
        self.problems = Spool()
        self.left_out = Spool()
        self.files = 0
        self.size = 0.0
        self.chunks = 0
        self.embedded = 0
        self.embedded_tokens = 0
        self.removed = 0
        self.change = NOTHING

    async def add(self, outcomes: Sequence[Outcome], *, last: bool = False) -> None:
        """Account for files; those whose documents are all taken are noted as read."""
        for each in outcomes:
            self.size += each.origin.size * each.done / max(1, each.documents)
            self.chunks += each.embedded
            key = (each.origin.source, each.origin.place)
            whole = self._open.pop(key) + each if key in self._open else each
            if whole.done < whole.documents:
                self._open[key] = whole
            elif whole.later and not last:
                self._late.add(items.packed(whole.origin))
                if not self._run.dry:  # what has been done now will not be again
                    self._count(whole)
            else:
                self._count(whole)
                await self._end(whole)
            if len(self._ended) >= _FILES:
                await self.note()

    async def late(self, intake: Intake) -> None:
        """Read those again that had to wait for all others."""
        await self.note()
        for text in self._late:
            found = items.read(items.origin(text))
            for part in workers.parts(found):
                await self.add(await intake.take(part, last=True), last=True)

    async def note(self) -> None:
        """Write down how files have ended."""
        if self._ended and not self._run.dry:
            run = self._run
            await patiently(
                lambda: self._registry.runs.end(run.collection, run.tenant, run.name, self._ended)
            )
        self._ended = []

    async def remove_gone(self, sources: Sequence[str]) -> None:
        """Remove what no file holds any more; nothing where a file could not be read."""
        run, runs = self._run, self._registry.runs
        for source in sources:
            of = (run.collection, run.tenant, source)
            after = ""
            while urls := await runs.was_read(*of, run.name, after, _FILES):
                kept = await self._remove(source, urls)
                await runs.settle(*of, run.name, [url for url in urls if url not in kept])
                after = urls[-1]
            after = ""
            while urls := await runs.gone(*of, run.started, after, _FILES):
                kept = await self._remove(source, urls)
                if not run.dry:
                    gone = [url for url in urls if url not in kept]
                    await runs.forget(*of, gone)
                after = urls[-1]
            if not (run.dry or self.problems):
                while entries := await self._registry.meetings.unseen_of_source(
                    *of, run.name, _DOCUMENTS
                ):
                    await self._delete(entries)
                await self._registry.meetings.forget_unwritten(*of, run.name)

    def _count(self, each: Outcome) -> None:
        self.embedded += each.embedded
        self.embedded_tokens += each.embedded_tokens
        self.removed += each.removed
        self.change += each.after - each.before

    async def _end(self, whole: Outcome) -> None:
        """Every document of a file has been taken, or is named."""
        self.files += 1
        origin, run = whole.origin, self._run
        for problem in (*whole.problems, *(said for _, said in whole.lost)):
            self.problems.add(problem)
        if whole.left_out:
            self.left_out.add(whole.left_out)
        if whole.lost and not run.dry:
            await self.note()
            of = (run.collection, run.tenant, origin.source)
            for place, said in whole.lost:
                await self._registry.runs.lose(*of, place, said)
        same = bool(whole.sha256) and whole.sha256 == origin.sha256
        state: FileState = "read" if origin.known and not same else "in"
        if whole.problems:
            state = "failed"
        elif run.dry and state == "read":
            await self._count_gone(whole)
        problem = "\n".join(whole.problems)[:2000]
        self._ended.append(Ended(origin.source, origin.place, whole.sha256, state, problem))

    async def _count_gone(self, whole: Outcome) -> None:
        """What would be removed of a file that would have been read."""
        run, place = self._run, whole.origin.place
        held = await self._registry.meetings.holds(
            run.collection, run.index.name, run.tenant, [place]
        )
        gone = held.get(place, NOTHING) - whole.met
        self.removed += gone.chunks
        self.change -= gone

    async def _remove(self, source: str, urls: Sequence[str]) -> set[str]:
        """Remove documents of files that the run has not met; returns the files that keep some."""
        run, meetings = self._run, self._registry.meetings
        if run.dry:
            if not self.problems:
                of = (run.collection, run.index.name, run.tenant)
                gone = sum((await meetings.holds(*of, urls)).values(), start=NOTHING)
                self.removed += gone.chunks
                self.change -= gone
            return set()
        kept: set[str] = set()
        while entries := await meetings.unseen(
            run.collection, run.tenant, source, urls, run.name, _DOCUMENTS
        ):
            if self.problems:
                # What could not be read this time was not taken away.
                kept |= {each.facts.url for each in entries}
                urls = [url for url in urls if url not in kept]
                continue
            await self._delete(entries)
        return kept

    async def _delete(self, entries: Sequence[Entry]) -> None:
        facts = [each.facts for each in entries]
        written = await patiently(lambda: self._writer.delete(self._run.collection, facts))
        self.removed += written.removed
