"""Ray Serve LLM's own server, as the expert uses it. Importing this loads vLLM."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ray.llm._internal.serve.core.configs.accelerators import CPUConfig
from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig
from ray.llm._internal.serve.core.protocol import RawRequestInfo
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.openai_api_models import ChatCompletionRequest

from serve_app.domain import Delta, Generation, Release
from serve_app.errors import AdapterUnusable, ContextLengthExceeded
from serve_app.expert import rendering
from serve_app.expert.engine import chat_request, engine_error, parse
from serve_app.expert.punica import InlineExecutor


class SingleProcessEngine(VLLMEngine):  # type: ignore[misc]  # Ray is untyped
    """vLLM on the CPU with its worker inside the engine's process.

    Ray Serve LLM fixes the multiprocess executor there. With one worker that costs a second
    process: a gigabyte, twenty seconds at start, and a core spinning on the queue between them.
    """

    def _start_async_llm_engine(self, args: Any, config: Any, placement_group: Any) -> Any:
        if config.parallel_config.world_size == 1:
            config.parallel_config.distributed_executor_backend = InlineExecutor
        return super()._start_async_llm_engine(args, config, placement_group)


class ChatServer(LLMServer):  # type: ignore[misc]  # Ray is untyped
    """An engine that takes a `Generation` and yields `Delta`s."""

    @classmethod
    async def started(cls, config: LLMConfig) -> ChatServer:
        """A server whose engine runs."""
        rendering.install()
        on_cpu = isinstance(config.accelerator_config, CPUConfig)
        weights = Path(config.get_engine_config().actual_hf_model_id)
        if await asyncio.to_thread(weights.is_dir):
            # Nothing to download: Ray would start a worker, load vLLM in it, and find that out.
            config.get_or_create_callback().ctx.run_init_node = False
        server: ChatServer = cls.sync_init(
            config, engine_cls=SingleProcessEngine if on_cpu else None
        )
        await server.start()
        return server

    async def _maybe_resolve_lora_from_multiplex(self) -> None:
        """Nothing: `load` has resolved it. Ray's own would fetch it again, and from clouds only."""

    async def load(self, release: Release, folder: Path) -> str:
        """Take an adapter in; returns the name that requests use.

        A version has a name of its own, so nothing of another, cached prefixes included, is taken
        for it. vLLM itself drops the least recently used and reads them again when asked.

        Raises:
            AdapterUnusable: The engine refuses it.
        """
        name = str(release)
        wanted = DiskMultiplexConfig(
            model_id=name, local_path=str(folder), max_total_tokens=None, lora_assigned_int_id=0
        )
        try:
            await self.engine.resolve_lora(wanted)
        except ValueError as error:
            raise AdapterUnusable(f"the engine refuses {release}: {error}") from None
        return name

    async def deltas(
        self, generation: Generation, model: str, headers: dict[str, str]
    ) -> AsyncIterator[Delta]:
        """Stream an answer, a delta for each event of the engine.

        It ends with the context where that has no room for the whole bound.

        Args:
            headers: `x-request-id` and W3C trace context for the engine's own spans.

        Raises:
            InvalidRequest: The engine refuses the request.
        """
        try:
            request = ChatCompletionRequest(**chat_request(generation, model))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise engine_error({"message": first["msg"], "param": place, "code": 400}) from None
        try:
            async with aclosing(self._stream(request, headers)) as deltas:
                async for delta in deltas:
                    yield delta
                return
        except ContextLengthExceeded:
            # vLLM refuses a bound that the prompt leaves no room for. Without one it goes on to the
            # end of the context, unless the prompt alone is too long.
            request.max_tokens = None
        async with aclosing(self._stream(request, headers)) as deltas:
            async for delta in deltas:
                if delta.usage and delta.usage.completion_tokens >= generation.max_tokens:
                    yield replace(delta, finish_reason=delta.finish_reason or "length")
                    return
                yield delta

    async def _stream(
        self, request: ChatCompletionRequest, headers: dict[str, str]
    ) -> AsyncGenerator[Delta]:
        async for batch in await self.chat(request, RawRequestInfo(headers=headers)):
            for item in batch if isinstance(batch, list) else [batch]:
                if not isinstance(item, str):
                    raise engine_error(json.loads(item.model_dump_json())["error"])
                # One string may hold several events.
                for line in item.split("\n\n"):
                    if delta := parse(line):
                        yield delta
