"""The expert as a Serve deployment: Ray Serve LLM's own server, warmed up and typed at its edge."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.llm._internal.serve.core.configs.accelerators import CPUConfig
from ray.llm._internal.serve.core.protocol import RawRequestInfo
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import build_llm_deployment
from ray.serve.llm.deployment import LLMServer

from serve_app.domain import Delta, Generation, Message, RequestContext
from serve_app.expert.engine import (
    chat_request,
    coalesce,
    engine_error,
    llm_config,
    parse,
)
from serve_app.settings import ExpertSettings
from serve_app.telemetry import tracing

if TYPE_CHECKING:
    from ray.serve.llm import LLMConfig


class _SingleProcessEngine(VLLMEngine):  # type: ignore[misc]
    """vLLM on the CPU with its worker inside the engine's process.

    Ray Serve LLM fixes the multiprocess executor there. With one worker that costs a second
    process: a gigabyte, twenty seconds at start, and a core spinning on the queue between them.
    """

    def _start_async_llm_engine(self, args: Any, config: Any, placement_group: Any) -> Any:
        from vllm.v1.executor.uniproc_executor import UniProcExecutor

        if config.parallel_config.world_size == 1:
            config.parallel_config.distributed_executor_backend = UniProcExecutor
        return super()._start_async_llm_engine(args, config, placement_group)


class ExpertServer(LLMServer):  # type: ignore[misc]  # LLMServer is untyped
    """A vLLM engine that reports ready only once it has answered.

    The first request through an engine pays for allocations and kernels that no later one does;
    here the replica pays before it takes traffic.
    """

    async def __init__(
        self, llm_config: LLMConfig, *, model: str, otlp_endpoint: str | None
    ) -> None:
        tracing.configure(otlp_endpoint, "expert")
        self._model = model
        on_cpu = isinstance(llm_config.accelerator_config, CPUConfig)
        await super().__init__(llm_config, engine_cls=_SingleProcessEngine if on_cpu else None)
        await self._warm_up()

    async def generate(
        self, context: RequestContext, generation: Generation
    ) -> AsyncIterator[Delta]:
        """Stream the model's answer; the last delta carries `finish_reason` and `usage`.

        Raises:
            InvalidRequest: The model refuses the request, e.g. a prompt beyond its context.
        """
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": self._model,
            "gen_ai.request.max_tokens": generation.max_tokens,
        }
        with tracing.span(f"chat {self._model}", attributes, parent=context.trace) as span:
            last = Delta()
            try:
                async for delta in coalesce(self._deltas(context, generation)):
                    last = delta
                    yield delta
            finally:
                # Also when the client has left: what was generated is counted.
                if last.usage:
                    span.set_attribute("gen_ai.usage.input_tokens", last.usage.prompt_tokens)
                    span.set_attribute("gen_ai.usage.output_tokens", last.usage.completion_tokens)
                if last.finish_reason:
                    span.set_attribute("gen_ai.response.finish_reasons", [last.finish_reason])

    async def _deltas(
        self, context: RequestContext, generation: Generation
    ) -> AsyncIterator[Delta]:
        from ray.serve.llm.openai_api_models import ChatCompletionRequest

        request = ChatCompletionRequest(**chat_request(generation, self._model))
        headers = {**tracing.outgoing(), "x-request-id": context.request_id}
        async for batch in await self.chat(request, RawRequestInfo(headers=headers)):
            for item in batch if isinstance(batch, list) else [batch]:
                if isinstance(item, str):
                    # One string may hold several events.
                    for line in item.split("\n\n"):
                        if delta := parse(line):
                            yield delta
                else:
                    raise engine_error(json.loads(item.model_dump_json())["error"])

    async def _warm_up(self) -> None:
        context = RequestContext(request_id="warm-up", deadline=float("inf"))
        for words in (4, 400):
            prompt = Message("user", "Say something about tents. " * (words // 4))
            async for _ in self._deltas(context, Generation((prompt,), max_tokens=8)):
                pass


def expert_application(
    settings: ExpertSettings,
    model_source: str,
    otlp_endpoint: str | None,
    options: dict[str, Any],
) -> serve.Application:
    """Bind the expert. `options` are Serve's options for the deployment."""
    return build_llm_deployment(
        llm_config(settings, model_source, otlp_endpoint),
        deployment_cls=ExpertServer,
        bind_kwargs={"model": settings.model, "otlp_endpoint": otlp_endpoint},
        # Ray Serve LLM sets the actor's resources itself, from the placement group.
        override_serve_options={k: v for k, v in options.items() if k != "ray_actor_options"},
    )
