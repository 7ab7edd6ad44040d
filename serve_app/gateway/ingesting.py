"""`/v1/collections/{name}/ingest`: jobs that bring documents in from addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from serve_app.errors import InvalidRequest, NotFound, PermissionDenied
from serve_app.fetching import parts_of
from serve_app.gateway import openapi
from serve_app.gateway.access import Principal
from serve_app.gateway.callers import Caller
from serve_app.gateway.documents import Collection
from serve_app.gateway.metering import Metering
from serve_app.gateway.openapi import ok
from serve_app.gateway.schema import IngestJobRequest
from serve_app.gateway.wire import unless_empty
from serve_app.ledger.jobs import Job, Jobs, Remark
from serve_app.retrieval.admission import has_control
from serve_app.retrieval.filters import Reader
from serve_app.settings.gateway import IngestSettings

_REMARKS = 100  # of a kind that are told of one job


@dataclass(frozen=True, slots=True)
class Ingesting:
    """What the endpoints work with."""

    jobs: Jobs
    settings: IngestSettings


def routes(ingesting: Ingesting, metering: Metering) -> APIRouter:
    """The endpoints. A job is seen by keys of its tenant that may read what it brings."""
    router = APIRouter(prefix="/v1/collections/{collection}/ingest")
    jobs, settings = ingesting.jobs, ingesting.settings

    @router.post("", responses=ok(openapi.IngestJob, "The job."))
    async def create(
        collection: Collection, body: IngestJobRequest, request: Request, caller: Caller
    ) -> dict[str, Any]:
        """Have documents fetched from addresses and put into the collection, one after another."""
        async with metering.visit(request, caller, "ingest"):
            _check(body.urls, settings)
            if not _reader(caller).may_read(body.allow):
                raise PermissionDenied(
                    "allow: this API key has none of these groups, so it may not write documents "
                    "for them",
                    param="allow",
                )
            made = await jobs.create(
                tenant=caller.tenant,
                collection=collection,
                api_key=caller.name,
                groups=sorted(caller.groups),
                allow=body.allow,
                source=body.source,
                addresses=list(dict.fromkeys(body.urls)),
                most=settings.max_jobs,
            )
        return _told(made)

    @router.get("", responses=ok(openapi.IngestJobs, "A page of jobs, the newest first."))
    async def page(
        collection: Collection,
        request: Request,
        caller: Caller,
        limit: Annotated[int, unless_empty(20), Query(ge=1, le=100)] = 20,
        after: Annotated[str, Query(max_length=32)] = "",
    ) -> dict[str, Any]:
        """Jobs of the collection. `after` is the `last_id` of the page before."""
        async with metering.visit(request, caller, "ingest"):
            found = await jobs.page(caller.tenant, collection, after, limit + 1)
        shown = [each for each in found[:limit] if _reader(caller).may_read(each.allow)]
        return {
            "object": "list",
            "data": [_told(each) for each in shown],
            "first_id": found[0].id if found else None,
            "last_id": found[:limit][-1].id if found else None,
            "has_more": len(found) > limit,
        }

    @router.get("/{job_id}", responses=ok(openapi.IngestJob, "The job."))
    async def status(
        collection: Collection, job_id: str, request: Request, caller: Caller
    ) -> dict[str, Any]:
        """How far a job has come, what of it has failed, and what is left out of its documents."""
        async with metering.visit(request, caller, "ingest"):
            found = _seen(await jobs.get(caller.tenant, collection, job_id), caller)
            failed = await jobs.failures(job_id, _REMARKS)
            left_out = await jobs.losses(job_id, _REMARKS)
        return _told(found, failed, left_out)

    @router.post("/{job_id}/cancel", responses=ok(openapi.IngestJob, "The job."))
    async def cancel(
        collection: Collection, job_id: str, request: Request, caller: Caller
    ) -> dict[str, Any]:
        """End a job. What it has brought in stays."""
        async with metering.visit(request, caller, "ingest"):
            _seen(await jobs.get(caller.tenant, collection, job_id), caller)
            return _told(await jobs.cancel(caller.tenant, collection, job_id))

    return router


def _check(addresses: Sequence[str], settings: IngestSettings) -> None:
    if len(addresses) > settings.max_urls:
        raise InvalidRequest(
            f"urls: at most {settings.max_urls} in one job (gateway.ingest.max_urls)", param="urls"
        )
    for i, url in enumerate(addresses):
        if has_control(url) or parts_of(url, settings.takes) is None:
            raise InvalidRequest(
                f"urls[{i}]: documents are not fetched from there: give an https:// address of a "
                "host that gateway.ingest.hosts names, or PUT the document itself",
                param=f"urls[{i}]",
            )


def _reader(caller: Principal) -> Reader:
    return Reader(caller.tenant, tuple(caller.groups))


def _seen(job: Job, caller: Principal) -> Job:
    if not _reader(caller).may_read(job.allow):
        raise NotFound("there is no such job")
    return job


def _told(
    job: Job, failed: Sequence[Remark] = (), left_out: Sequence[Remark] = ()
) -> dict[str, Any]:
    return {
        "object": "ingest.job",
        "id": job.id,
        "collection": job.collection,
        "status": job.status,
        "source": job.source,
        "allow": list(job.allow),
        "created_at": int(job.created_at),
        "started_at": job.started_at and int(job.started_at),
        "ended_at": job.ended_at and int(job.ended_at),
        "urls": {"pending": job.pending, "done": job.done, "failed": job.failed},
        "documents": job.documents,
        "chunks": job.chunks,
        "removed": job.removed,
        "error": job.problem or None,
        "failed": [{"url": each.url, "message": each.text} for each in failed],
        "left_out": [{"url": each.url, "message": each.text} for each in left_out],
    }
