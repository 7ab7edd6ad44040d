"""OpenAI's Responses, which its reasoning models are made for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import openai

from serve_app.domain import Delta, Generation, Usage
from serve_app.errors import UnsupportedParameter
from serve_app.frontier.openai import client
from serve_app.frontier.providers import counted, failure, finish_reason, headers, translated
from serve_app.settings import UpstreamSettings

_PASSED = frozenset({"temperature", "top_p"})


class ResponsesProvider:
    """Nothing is stored at the provider."""

    def __init__(self, settings: UpstreamSettings, silence_s: float) -> None:
        self._model = settings.model
        self._client = client(settings, silence_s)

    async def generate(self, generation: Generation) -> AsyncGenerator[Delta]:
        request = self._request(generation)
        with translated(openai):
            stream = await self._client.responses.create(**request)
            ended = False
            async with stream:
                theirs = stream.response.headers.get("x-request-id")
                async for event in stream:
                    match event.type:
                        case "response.output_text.delta" | "response.refusal.delta":
                            yield Delta(event.delta)
                        case "response.completed" | "response.incomplete":
                            ended = True
                            yield _last(event.response, theirs)
                        case "response.failed" | "error":
                            raise failure(None)
            if not ended:
                raise failure(None)

    def _request(self, generation: Generation) -> dict[str, Any]:
        options = dict(generation.options)
        form = options.pop("response_format", None)
        for name in options:
            if name not in _PASSED:
                raise UnsupportedParameter(
                    f"the frontier model does not support {name!r}; leave it out", param=name
                )
        messages = [{"role": m.role, "content": m.content} for m in generation.messages]
        return {
            "model": self._model,
            "input": messages,
            "max_output_tokens": generation.max_tokens,
            "stream": True,
            "store": False,
            "extra_headers": headers(generation),
            **options,
            **({"text": {"format": _format(form)}} if form else {}),
        }


def _format(form: Mapping[str, Any]) -> dict[str, Any]:
    """Chat's `response_format` as Responses has it: one level less."""
    return {"type": form["type"], **form.get("json_schema", {})}


def _last(response: Any, theirs: str | None) -> Delta:
    cut = response.incomplete_details.reason if response.incomplete_details else None
    usage = None
    if response.usage:
        read, written = response.usage.input_tokens_details, response.usage.output_tokens_details
        usage = Usage(
            counted(response.usage.input_tokens),
            counted(response.usage.output_tokens),
            counted(getattr(read, "cached_tokens", None)),
            counted(getattr(written, "reasoning_tokens", None)),
        )
    reason = finish_reason("length" if cut == "max_output_tokens" else cut)
    return Delta(finish_reason=reason, usage=usage, provider_id=theirs or response.id)
