"""Which replica of the expert a request goes to: one that has read its beginning before."""

from __future__ import annotations

import hashlib
import math
import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ray.serve.request_router import (
    FIFOMixin,
    LocalityMixin,
    MultiplexMixin,
    PendingRequest,
    ReplicaID,
    ReplicaResult,
    RequestRouter,
    RunningReplica,
)

from serve_app.domain import Generation
from serve_app.settings import ExpertSettings

_BLOCK = 1024  # characters; a shorter prompt is read again in no time
_BLOCKS = 32  # that are looked at: what is common to two requests is at their beginning
_KNOWN = 50_000  # blocks remembered, about 10 MB
_SPARE = 2  # requests above its fair share that a replica may always have


def request_routing(settings: ExpertSettings) -> dict[str, Any]:
    """Serve's option for the expert's deployment, as plain data; none where there is no cache."""
    if settings.engine.get("enable_prefix_caching") is False:
        return {}
    place = f"{PrefixAffinity.__module__}:{PrefixAffinity.__name__}"
    return {"request_router_config": {"request_router_class": place}}


class PrefixAffinity(FIFOMixin, LocalityMixin, MultiplexMixin, RequestRouter):  # type: ignore[misc]
    """Prefers the replica that was last sent the longest beginning of a request's prompt.

    vLLM keeps the keys and values of prompts that it has read: instructions, evidence, earlier
    turns. A replica that has them begins to answer at once. Among the replicas that Serve would
    choose from (those which have the adapter, where there is one) the holder is taken; for what
    nobody has read, the shorter of two queues, as in Serve's own. A replica with more than a
    quarter and two requests above its fair share is passed over; where all that have an adapter
    are so busy, another one loads it.

    Ray Serve LLM's `PrefixCacheAffinityRouter` serves the same end. It asks an actor, twice a
    request, and blocks the caller's event loop meanwhile; with that actor's node the expert is
    gone; and below its threshold it takes any replica, whether that has the adapter or not. Here
    each caller remembers what it sent.
    """

    def initialize_state(self, **_: Any) -> None:
        self._sent: OrderedDict[bytes, ReplicaID] = OrderedDict()

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        if pending_request and pending_request.metadata.multiplexed_model_id:
            able = self.apply_multiplex_routing(pending_request)
        else:
            able = self.apply_locality_routing(pending_request)
        if not able:
            return []
        if pending_request is None or len(self._replicas) == 1:
            return [[self._replicas[each] for each in able]]
        free = self._free(able) or self._free(self._replicas)
        two = random.sample(free, min(2, len(free)))
        holder = self._holder(pending_request, free)
        return [[holder], two] if holder else [two]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult
    ) -> None:
        if len(self._replicas) < 2:
            return
        for block in _beginnings(pending_request):
            self._sent[block] = replica_id
            self._sent.move_to_end(block)
        while len(self._sent) > _KNOWN:
            self._sent.popitem(last=False)

    def _free(self, replicas: Iterable[ReplicaID]) -> list[RunningReplica]:
        """Those of the replicas that have no more to do than their share, and something beside."""
        # One that has not been heard of for a while has nothing to do.
        ongoing = {each: self._replica_queue_len_cache.get(each) or 0 for each in self._replicas}
        most = math.ceil(1.25 * (sum(ongoing.values()) + 1) / len(ongoing)) + _SPARE
        return [self._replicas[each] for each in replicas if ongoing.get(each, most) < most]

    def _holder(
        self, request: PendingRequest, replicas: Sequence[RunningReplica]
    ) -> RunningReplica | None:
        """Who of the replicas was sent the longest beginning."""
        able = {each.replica_id: each for each in replicas}
        found = None
        for block in _beginnings(request):
            if block not in self._sent:
                break
            found = able.get(self._sent[block], found)
        return found


def _beginnings(request: PendingRequest) -> Iterator[bytes]:
    """Hashes of a prompt's beginnings, each a block longer than the one before.

    Keys and values are an adapter's own; it alone is a beginning, as it has to be loaded too.
    """
    generation = next((each for each in request.args if isinstance(each, Generation)), None)
    if generation is None:
        return
    digest = hashlib.blake2b(str(generation.adapter).encode(), digest_size=12)
    if generation.adapter:
        yield digest.copy().digest()
    pending = blocks = 0
    for message in generation.messages:
        text = f"\0{message.role}\0{message.content}"
        start = 0
        while len(text) - start >= _BLOCK - pending:
            end = start + _BLOCK - pending
            digest.update(text[start:end].encode(errors="replace"))
            yield digest.copy().digest()
            start, pending, blocks = end, 0, blocks + 1
            if blocks == _BLOCKS:
                return
        digest.update(text[start:].encode(errors="replace"))
        pending += len(text) - start
