"""Which replica of the router a call goes to."""

from __future__ import annotations

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica


class Lanes(FIFOMixin, RequestRouter):  # type: ignore[misc]
    """Spreads a caller's lanes over the replicas; neighbouring lanes go to different ones.

    Serve's own choice, the shorter of two queues, does not suit callers that send one call after
    the other: it hears that a call has ended a moment after the caller has, who by then has sent
    the next. Up to two in a hundred then waited behind another call beside an idle replica.

    A lane is a number, given as `session_id`. A call without one goes to the shortest queue. Nodes
    and zones do not matter to either.

    First in, first out, as in Serve's own: without it Ray 2.60 tells waiting calls apart by the
    request that makes them, and one of two that a request makes at once would wait for ever.
    """

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return [candidate_replicas]
        # Where all are full, Serve tries again; without this it would not pause.
        pending_request.routing_context.should_backoff = True
        if not pending_request.metadata.session_id:
            return [candidate_replicas]
        others = sorted(candidate_replicas, key=lambda each: each.replica_id.unique_id)
        first = others.pop(int(pending_request.metadata.session_id) % len(others))
        return [[first], others]
