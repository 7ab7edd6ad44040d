"""The expert as a Serve deployment: an engine that is warm before it takes traffic."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from ray import serve
from ray._private.utils import get_num_cpus

from serve_app.coalescing import coalesce
from serve_app.domain import Delta, Generation, Message, Release, RequestContext
from serve_app.errors import AdapterUnusable, SettingsError
from serve_app.expert.engine import llm_config
from serve_app.expert.loading import Shelf
from serve_app.settings import ExpertSettings
from serve_app.telemetry import tracing


class ExpertServer:
    """A replica of the expert.

    The first request through an engine pays for allocations and kernels that no later one does;
    here the replica pays before it reports ready.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: ExpertSettings, model_source: str, otlp_endpoint: str | None
    ) -> None:
        # Imported here: it loads vLLM, and only this process needs that.
        from serve_app.expert.server import ChatServer

        tracing.configure(otlp_endpoint, "expert")
        _require(model_source)
        self._model = settings.model
        self._server = await ChatServer.started(llm_config(settings, model_source, otlp_endpoint))
        self._load = self._loader(settings, model_source)
        await self._warm_up()

    async def generate(
        self, context: RequestContext, generation: Generation
    ) -> AsyncIterator[Delta]:
        """Stream the model's answer; the last delta carries `finish_reason` and `usage`.

        Raises:
            InvalidRequest: The model refuses the request, e.g. a prompt beyond its context.
            AdapterUnusable: The adapter cannot be loaded.
        """
        model = self._model
        if generation.adapter:
            model = await self._load(str(generation.adapter))
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": model,
            "gen_ai.request.max_tokens": generation.max_tokens,
        }
        with tracing.span(f"chat {model}", attributes, parent=context.trace) as span:
            headers = {**tracing.outgoing(), "x-request-id": context.request_id}
            last = Delta()
            try:
                deltas = self._server.deltas(generation, model, headers)
                async with aclosing(coalesce(deltas)) as merged:
                    async for delta in merged:
                        last = delta
                        yield delta
            finally:
                # Also when the client has left: what was generated is counted.
                if last.usage:
                    span.set_attribute("gen_ai.usage.input_tokens", last.usage.prompt_tokens)
                    span.set_attribute("gen_ai.usage.output_tokens", last.usage.completion_tokens)
                if last.finish_reason:
                    span.set_attribute("gen_ai.response.finish_reasons", [last.finish_reason])

    async def check_health(self) -> None:
        """Raises when the engine is dead; Serve then replaces the replica."""
        await self._server.check_health()

    def _loader(
        self, settings: ExpertSettings, model_source: str
    ) -> Callable[[str], Awaitable[str]]:
        """Loads an adapter by its text, once; Serve then prefers this replica for it."""
        lora = settings.lora
        if not lora.enabled:
            return _off
        shelf = Shelf.of(settings, model_source)

        async def load(adapter: str) -> str:
            release = Release.parse(adapter)
            folder = await asyncio.to_thread(shelf.take, release)
            return await self._server.load(release, folder)

        # vLLM counts with the same bound, and reads again what it dropped: nothing to unload here.
        loader: Callable[[str], Awaitable[str]]
        loader = serve.multiplexed(max_num_models_per_replica=lora.max_cpu_loras)(load)
        return loader

    async def _warm_up(self) -> None:
        for words in (4, 400):
            prompt = Message("user", "Say something about tents. " * (words // 4))
            generation = Generation((prompt,), max_tokens=8)
            async for _ in self._server.deltas(generation, self._model, {}):
                pass


def _require(model_source: str) -> None:
    """Raises `SettingsError` where a folder is meant and there is none: vLLM would ask a hub."""
    folder = Path(model_source)
    if folder.is_absolute() and not folder.is_dir():
        raise SettingsError(
            f"{folder}: there is no model; run `trivium prepare`, or mend expert.model_source"
        )


async def _off(adapter: str) -> str:
    raise AdapterUnusable(f"{adapter}: adapters are not served here (expert.lora.enabled)")


_OWN_LOGGING = {"VLLM_CONFIGURE_LOGGING": "0"}
_WITHOUT_NVCC = {"VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_ALLREDUCE_USE_FLASHINFER": "0"}


def environment(settings: ExpertSettings) -> dict[str, str]:
    """Environment of the engine's process.

    On the CPU one core is left to everything else: OpenMP's threads wait for each other spinning,
    and one that has to share its core holds up all of them. An engine that is told to run eagerly
    there compiles its sampler all the same, by a C++ compiler that need not be there. On a GPU what
    FlashInfer would compile with nvcc, which neither image nor node has, is left to kernels that
    come with vLLM.

    vLLM's way to configure logging closes the handlers of everybody else in its process. Serve's
    controller asks a replica for the file of its own when it has been restarted, and stops one that
    has none any more (Ray 2.60, vLLM 0.29).
    """
    if settings.accelerator != "cpu":
        return {**_OWN_LOGGING, **_WITHOUT_NVCC, **settings.environment}
    # A container's CPUs may be fewer than the machine's.
    cores = min(os.cpu_count() or 1, get_num_cpus(override_docker_cpu_warning=True))
    ours = {**_OWN_LOGGING, "OMP_NUM_THREADS": str(max(1, int(cores) - 1))}
    if settings.engine.get("enforce_eager"):
        ours["TORCH_COMPILE_DISABLE"] = "1"
    return {**ours, **settings.environment}


def placement(settings: ExpertSettings) -> dict[str, Any]:
    """Serve options that reserve the engine's machine: one bundle per worker, all on one node.

    The first bundle also holds the replica itself. Tensor parallelism over a network is slower than
    one GPU, and what does not fit a pod must wait for one that is larger, not be spread.
    """
    engine, scaling = settings.engine, settings.scaling
    if settings.accelerator == "cpu":
        bundles = [{"CPU": scaling.num_cpus}]
    else:
        workers = engine.get("tensor_parallel_size", 1) * engine.get("pipeline_parallel_size", 1)
        bundles = [{"CPU": scaling.num_cpus, "GPU": 1.0}, *[{"GPU": 1.0}] * (workers - 1)]
    return {
        "placement_group_bundles": bundles,
        "placement_group_strategy": "STRICT_PACK",
        "ray_actor_options": {"num_cpus": 0, "runtime_env": {"env_vars": environment(settings)}},
    }
