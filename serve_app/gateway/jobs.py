"""Jobs carried out: addresses fetched, read and put into the knowledge base, one after another.

Every gateway replica does one job at a time. What it does can be done again, as documents have
ids: a replica that dies or restarts leaves a job whose lease ends, and another one goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from serve_app.domain import Document, RequestContext
from serve_app.errors import BudgetExceeded, NotFound, TriviumError, UnprocessableDocument
from serve_app.fetching import Content, Unfetchable
from serve_app.gateway.metering import Visit
from serve_app.gateway.roads import RemoteKnowledge
from serve_app.ledger.accounts import Accounts
from serve_app.ledger.jobs import Job, Jobs, Outcome
from serve_app.ledger.tables import SERVED
from serve_app.retrieval import admission
from serve_app.retrieval.formats import apart
from serve_app.retrieval.formats.addresses import document_id, file_name
from serve_app.retrieval.formats.reading import Reading
from serve_app.retrieval.sources import twice
from serve_app.settings.gateway import IngestSettings

log = logging.getLogger(__name__)

PATIENCE_S = 600.0  # for one batch of documents to be embedded and written
_LEASE_S = 60.0
_LOOK_S = 2.0  # for a job that somebody has made at another replica
_PAUSES_S = (1.0, 30.0)  # between two attempts: the first pause, and the longest
_GIVEN_UP_S = 600.0  # on an address, when the knowledge base is away for so long
_LATER = (429, 503)
_BATCH = 16
_PAGE = 1000
_ROUTE = "/v1/collections/{collection}/ingest"

Fetch = Callable[[str], Awaitable[Content]]


class Runner:
    """Carries out jobs until cancelled.

    Args:
        fetch: What is at an address; raises `Unfetchable`.
        embeds: The embedding model's name in the price table.
    """

    def __init__(
        self,
        jobs: Jobs,
        knowledge: RemoteKnowledge,
        accounts: Accounts,
        fetch: Fetch,
        settings: IngestSettings,
        embeds: str,
    ) -> None:
        self._jobs = jobs
        self._knowledge = knowledge
        self._accounts = accounts
        self._fetch = fetch
        self._settings = settings
        self._embeds = embeds
        self._name = uuid.uuid4().hex

    async def run(self) -> None:
        """Take one job after another. What goes wrong with one is no other's."""
        while True:
            try:
                job = await self._jobs.claim(self._name, _LEASE_S)
                if job is not None:
                    await self.carry_out(job)
                    continue
            except Exception as error:
                # The ledger may be away: jobs wait, and nobody's answer depends on them.
                log.warning("no job is done now: %r", error)
            await asyncio.sleep(_LOOK_S)

    async def carry_out(self, job: Job) -> None:
        """Do a job that is ours, as long as it is."""
        work = asyncio.create_task(self._work(job))
        beat = asyncio.create_task(self._keep(job, work))
        try:
            await asyncio.wait([work])
        finally:
            beat.cancel()
            work.cancel()
            await asyncio.gather(work, beat, return_exceptions=True)
            # Were this gateway to end here, the next one need not wait for the lease.
            await asyncio.shield(self._jobs.let_go(job.id, self._name))

    async def _keep(self, job: Job, work: asyncio.Task[None]) -> None:
        """Keep a job ours; end the work where it is cancelled, or another's."""
        while True:
            await asyncio.sleep(_LEASE_S / 12)
            if not await self._jobs.renew(job.id, self._name, _LEASE_S):
                work.cancel()
                return

    async def _work(self, job: Job) -> None:
        try:
            while (following := await self._jobs.following(job.id)) is not None:
                number, url = following
                await self._jobs.settle(job.id, number, await self._brought(job, url))
            removed = await self._follow_deletes(job)
        except TriviumError as error:
            await self._jobs.end(job.id, self._name, "failed", error.message)
        except Exception as error:
            log.error("job %s failed", job.id, exc_info=error)
            await self._jobs.end(job.id, self._name, "failed", "something broke on our side")
        else:
            await self._jobs.end(job.id, self._name, "done", removed=removed)

    async def _brought(self, job: Job, url: str) -> Outcome:
        """Bring in what is at an address."""
        try:
            read = await self._read(url)
            given = [
                replace(each, source=job.source, url=url, allow=each.allow or job.allow)
                for each in read.documents
            ]
            documents, problems = _each_once(given, await self._jobs.brought(job.id))
            problems += read.problems
            chunks = 0
            for start in range(0, len(documents), _BATCH):
                chunks += await self._put(job, documents[start : start + _BATCH])
        except BudgetExceeded:
            raise  # of the others nothing would come either
        except TriviumError as error:
            return Outcome(error.message)
        ids = [each.id for each in documents]
        return Outcome("; ".join(problems), read.losses(url), ids, chunks)

    async def _read(self, url: str) -> Reading:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                found = await self._fetch(url)
        except TimeoutError:
            raise UnprocessableDocument("cannot be fetched: its host is too slow") from None
        except Unfetchable as error:
            raise UnprocessableDocument(f"cannot be fetched: {error}") from None
        name = file_name(url, found.kind)
        return await apart.read(name, found.data, document_id(url), self._settings.timeout_s)

    async def _put(self, job: Job, documents: list[Document]) -> int:
        texts = [f"{each.title} {each.text}" for each in documents]

        async def put() -> int:
            async with self._visit(job) as visit, visit.embedding(texts) as embedding:
                report = await self._knowledge.ingest(visit.context, job.collection, documents)
                embedding.read(report.embedded_tokens)
            return report.chunks

        pause, longest = _PAUSES_S
        again = AsyncRetrying(
            stop=stop_after_delay(_GIVEN_UP_S),
            wait=wait_random_exponential(multiplier=pause, max=longest),
            retry=retry_if_exception(_is_for_later),
            reraise=True,
        )
        return await again(put)

    @contextlib.asynccontextmanager
    async def _visit(self, job: Job) -> AsyncIterator[Visit]:
        context = RequestContext(
            f"job-{job.id}", time.time() + PATIENCE_S, job.tenant, job.api_key, job.groups
        )
        account = await self._accounts.open(context, _ROUTE, None)
        status = "failed"
        try:
            yield Visit(context, account, self._embeds)
            status = SERVED
        finally:
            await account.close({"status": status})

    async def _follow_deletes(self, job: Job) -> int:
        """Remove documents of the source that the job has not brought, if it has brought all."""
        if not job.source or await self._jobs.failures(job.id, 1):
            return 0
        brought = await self._jobs.brought(job.id)
        removed, after = 0, ""
        async with self._visit(job) as visit:
            while True:
                page = await self._knowledge.documents(
                    visit.context, job.collection, after, _PAGE, job.source
                )
                for each in page.documents:
                    if each["id"] not in brought:
                        with contextlib.suppress(NotFound):
                            await self._knowledge.delete(visit.context, job.collection, each["id"])
                            removed += 1
                if not page.has_more:
                    return removed
                after = page.documents[-1]["id"]


def _is_for_later(error: BaseException) -> bool:
    """Whether the same may succeed in a while. No waiting brings a spent budget back."""
    spent = isinstance(error, BudgetExceeded)
    return isinstance(error, TriviumError) and error.status in _LATER and not spent


def _each_once(given: list[Document], taken: set[str]) -> tuple[list[Document], list[str]]:
    """Documents whose ids can be asked for and are no other one's, and what is said of the rest."""
    documents: dict[str, Document] = {}
    problems: list[str] = []
    for each in given:
        if each.id in documents or each.id in taken:
            problems.append(twice(each.url, each.id))
        elif problem := admission.id_problem(each.id):
            problems.append(f"the id {each.id!r} {problem}")
        else:
            documents[each.id] = each
    return list(documents.values()), problems
