"""The router as a Serve deployment: a pool of CPU replicas that decide in batches.

Its settings are its `user_config`, heads and policy among them: Serve hands changed ones to the
running replicas, which swap all between two batches. What cannot be loaded is logged, and the old
stays.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from opentelemetry.trace import Span
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.domain import Decision, RequestContext
from serve_app.errors import SettingsError
from serve_app.handles import Remote
from serve_app.pins import Pin
from serve_app.priority import after_engines
from serve_app.router.bases import Bases, Key
from serve_app.router.classifier import GenerativeClassifier
from serve_app.router.coverage import Coverage
from serve_app.router.encoder import Encoder
from serve_app.router.fetching import fetch
from serve_app.router.semantic import SemanticRouter
from serve_app.router.turns import Turns
from serve_app.settings import RouterSettings, Settings, from_args
from serve_app.telemetry import tracing

log = logging.getLogger(__name__)

_FETCH_S = 60.0
_SKETCHES_S = 5.0

Asked = tuple[Turns, str]


class RouterServer:
    """Decides. Batches whatever is waiting while the previous batch runs; never waits for more.

    Args:
        fixed: Settings of the encoder, which hold as long as the replica lives.
        encoder: Folder of the encoder.
        heads: Gives the file of those that hold where the settings name none.
        retriever: Tells what tenants' knowledge bases speak of.
    """

    def __init__(
        self,
        fixed: RouterSettings,
        encoder: Path,
        heads: Callable[[], Path],
        expert: DeploymentHandle[Any],
        retriever: DeploymentHandle[Any],
        otlp_endpoint: str | None,
    ) -> None:
        after_engines()
        tracing.configure(otlp_endpoint, "router")
        if not encoder.is_dir():
            raise SettingsError(f"{encoder} is not prepared; run `trivium prepare`")
        self._encoder = Encoder(encoder, max_tokens=fixed.max_tokens, threads=fixed.threads)
        self._heads = heads()
        self._expert = expert
        self._coverage = Coverage.load()
        sketches = Sketches(Remote(retriever, "knowledge", _SKETCHES_S))
        self._bases = Bases(sketches, self._coverage, fixed.sketch_bytes)
        self._following: asyncio.Task[None] | None = None
        self._classifier: GenerativeClassifier | None = None
        self._router: SemanticRouter | None = None

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Take new settings (`{"router": …}`), or go on with the old ones.

        Raises:
            SettingsError: They are bad and there are no old ones.
        """
        try:
            everything = from_args(config)
            settings = everything.router
            async with asyncio.timeout(_FETCH_S):
                router = await self._made(everything)
        except (SettingsError, TimeoutError):
            if self._router is None:
                raise
            log.exception("the router's new settings are bad; the old ones stay in force")
            return
        self._batched.set_max_batch_size(settings.max_batch_size)
        self._batched.set_batch_wait_timeout_s(settings.batch_wait_s)
        self._classifier = GenerativeClassifier(Remote(self._expert, "expert", settings.timeout_s))
        self._router = router
        self._following = self._following or asyncio.create_task(self._bases.follow())

    async def _made(self, everything: Settings) -> SemanticRouter:
        """A router that is warm."""
        settings = everything.router
        place = settings.heads or str(self._heads)
        heads = await asyncio.to_thread(fetch, place, settings.heads_sha256)
        router = SemanticRouter.of(everything, self._encoder, heads, self._coverage, self._bases)
        size = settings.max_batch_size
        warm = [Turns("warm up")] * size
        await asyncio.to_thread(router.decide, warm, ["default"] * size)
        return router

    async def decide(
        self, context: RequestContext, asked: Sequence[tuple[RequestContext, Turns]]
    ) -> list[tuple[Decision, bool]]:
        """Where queries should go, and of each whether `decide_again` is worth its time."""
        with ExitStack() as spans:
            # Of those alone that are traced: many travel together, and each costs.
            opened = {
                number: spans.enter_context(tracing.span("route", parent=context.trace))
                for number, (context, _) in enumerate(asked)
                if context.trace
            }
            await self._bases.ready({(turns.collection, c.tenant) for c, turns in asked})
            made: list[Decision] = await self._batched(
                [(replace(turns, said=()), c.tenant) for c, turns in asked]
            )
            # Of those that have to: not in the batch, where others would wait for it.
            for number, (c, turns) in enumerate(asked):
                if turns.said:
                    assert self._router is not None
                    made[number] = await asyncio.to_thread(
                        self._router.reconsider, made[number], turns, c.tenant
                    )
            for number, span in opened.items():
                _describe(span, made[number])
        return [
            (decision, self._unsure(one, decision))
            for (one, _), decision in zip(asked, made, strict=True)
        ]

    async def pins(self, context: RequestContext) -> tuple[Pin, ...]:
        """Those that may hold for a tenant."""
        assert self._router is not None
        return self._router.policy.pins_of(context.tenant)

    @serve.batch
    async def _batched(self, calls: list[list[Asked]]) -> list[list[Decision]]:
        assert self._router is not None  # Serve configures before it lets requests in
        asked = [each for call in calls for each in call]
        made = iter(
            await asyncio.to_thread(
                self._router.decide, [turns for turns, _ in asked], [tenant for _, tenant in asked]
            )
        )
        return [[next(made) for _ in call] for call in calls]

    def _unsure(self, context: RequestContext, decision: Decision) -> bool:
        assert self._router is not None
        stage = self._router.policy.second_stage
        in_time = context.deadline - time.time() >= 2 * stage.timeout_s
        return decision.confidence < stage.below and in_time

    async def decide_again(
        self, context: RequestContext, asked: Turns, first: Decision
    ) -> Decision:
        """The decision with stage 2's opinion in it, or the same one."""
        with tracing.span("route", parent=context.trace) as span:
            decision = await self._second_opinion(context, asked, first)
            _describe(span, decision)
            return decision

    async def _second_opinion(
        self, context: RequestContext, asked: Turns, first: Decision
    ) -> Decision:
        assert self._router is not None
        assert self._classifier is not None
        stage = self._router.policy.second_stage
        started = time.perf_counter()
        opinion = await self._classifier.classify(context, asked, stage.timeout_s)
        if opinion.road is None:
            return replace(first, usage=opinion.usage)
        shares = {
            road: (1 - stage.weight) * share + stage.weight * (road is opinion.road)
            for road, share in first.scores.items()
        }
        elapsed_ms = first.latency_ms + (time.perf_counter() - started) * 1000
        known = replace(first, stage="2", latency_ms=elapsed_ms, usage=opinion.usage)
        matched = self._router.matched(asked, context.tenant)
        return self._router.policy.again(
            known, self._router.known, context.tenant, matched, first.intended or (), shares
        )


def _describe(span: Span, decision: Decision) -> None:
    span.set_attribute("trivium.route", decision.route.value)
    span.set_attribute("trivium.router.confidence", decision.confidence)
    span.set_attribute("trivium.router.stage", decision.stage)
    for name, version in decision.versions.items():
        span.set_attribute(f"trivium.router.{name}", version)


class Sketches:
    """What the retriever says of knowledge bases."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    async def sketches(
        self, collection: str, tenants: Collection[str]
    ) -> Mapping[str, tuple[int, bytes | None]]:
        found: Mapping[str, tuple[int, bytes | None]] = await self._remote.call(
            "sketches", self._context(), collection, list(tenants)
        )
        return found

    async def changed(self, since: float) -> tuple[float, Mapping[Key, int]]:
        now, changed = await self._remote.call("sketches_changed", self._context(), since)
        return now, {(collection, tenant): version for collection, tenant, version in changed}

    def _context(self) -> RequestContext:
        return RequestContext("router-sketches", time.time() + _SKETCHES_S)
