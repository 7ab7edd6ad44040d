"""Settings to `ray.serve.llm`'s `LLMConfig`, and vLLM's stream to ours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve_app.domain import Delta, FinishReason, Generation, Usage
from serve_app.errors import ContextLengthExceeded, InternalError, InvalidRequest
from serve_app.settings import ExpertSettings, LoraSettings

if TYPE_CHECKING:
    from ray.serve.llm import LLMConfig

# JSON without free whitespace: in it a small model gets lost until its bound cuts the answer off, 4
# times in 60 on the demo's. Of vLLM's backends that can do without, this one knows more of JSON
# Schema.
_STRUCTURED = {"backend": "guidance", "disable_any_whitespace": True}


def llm_config(settings: ExpertSettings, model_source: str, otlp_endpoint: str | None) -> LLMConfig:
    """What Ray Serve LLM needs to serve the expert's base model.

    Args:
        model_source: Folder or hub id of the weights.
        otlp_endpoint: Where vLLM sends its own spans; `None` turns them off.
    """
    from ray.serve.llm import LLMConfig

    engine = {**arguments(settings), **lora_arguments(settings.lora)}
    if otlp_endpoint:
        engine["otlp_traces_endpoint"] = otlp_endpoint
    return LLMConfig(
        model_loading_config={"model_id": settings.model, "model_source": model_source},
        engine_kwargs=engine,
        # Tokens leave as they come: the default of 50 ms would be added to every first token.
        experimental_configs={"stream_batching_interval_ms": 0},
        log_engine_metrics=True,
        **_CPU if settings.accelerator == "cpu" else {},
    )


def arguments(settings: ExpertSettings) -> dict[str, Any]:
    """vLLM's arguments as the settings have them, and what they leave to us."""
    engine = {"structured_outputs_config": dict(_STRUCTURED), **settings.engine}
    if settings.accelerator == "cpu":
        engine.setdefault("dtype", cpu_dtype())
    return engine


def lora_arguments(settings: LoraSettings) -> dict[str, Any]:
    """Engine arguments for adapters; none when they are off, as enabled ones cost memory."""
    if not settings.enabled:
        return {}
    return {
        "enable_lora": True,
        "max_loras": settings.max_loras,
        "max_cpu_loras": settings.max_cpu_loras,
        "max_lora_rank": settings.max_lora_rank,
    }


def cpu_dtype() -> str:
    """The fastest type of this machine: without instructions for it, bf16 is emulated."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "auto"
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


_CPU: dict[str, Any] = {
    "accelerator_config": {"kind": "cpu"},
    "placement_group_config": {"bundles": [{"CPU": 1}]},
}


def chat_request(generation: Generation, model: str) -> dict[str, Any]:
    """The body of vLLM's chat endpoint for a generation."""
    return {
        "model": model,
        "messages": [
            # Chat templates of small models know no developer role; to them it is the system's.
            {
                "role": "system" if m.role == "developer" else m.role,
                "content": m.content,
            }
            for m in generation.messages
        ],
        "max_tokens": generation.max_tokens,
        "stream": True,
        # Usage with every chunk: a stream that the client leaves is counted up to that point.
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        **generation.options,
    }


def parse(line: str) -> Delta | None:
    """One server-sent event of vLLM's chat stream; `None` for those without news.

    Raises:
        InvalidRequest, ContextLengthExceeded, InternalError: The event is an error.
    """
    data = line.removeprefix("data: ").strip()
    if not data or data == "[DONE]":
        return None
    event = json.loads(data)
    if "error" in event:
        raise engine_error(event["error"])
    usage = event.get("usage")
    counted = usage and Usage(
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage.get("completion_tokens") or 0,
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
    )
    text, finish, logprobs = "", None, ()
    if event["choices"]:
        choice = event["choices"][0]
        text = choice["delta"].get("content") or ""
        finish = _finish(choice.get("finish_reason"))
        if told := choice.get("logprobs"):
            logprobs = tuple([each["logprob"] for each in told.get("content") or ()])
    return Delta(text=text, finish_reason=finish, usage=counted or None, logprobs=logprobs)


def engine_error(error: dict[str, Any]) -> InvalidRequest | InternalError:
    """vLLM's error object as one of ours. Its message is shown only when the caller is at fault."""
    message = str(error.get("message", ""))
    code = error.get("code")
    if not isinstance(code, int) or not 400 <= code < 500:
        return InternalError("the expert model failed; try again")
    if "context length" in message or "max_model_len" in message or "longer than" in message:
        return ContextLengthExceeded(
            f"the prompt is too long for the model: {message}", param="messages"
        )
    return InvalidRequest(message, param=_param(error.get("param"), message))


def _param(theirs: Any, message: str) -> str:
    """The caller's field that vLLM means: it names few of them, and some by names of its own."""
    if isinstance(theirs, str) and theirs.partition(".")[0] in _FIELDS:
        return theirs
    return next((ours for ours, sign in _SIGNS.items() if sign.search(message)), "messages")


_FIELDS = frozenset(
    {
        *("temperature", "top_p", "max_tokens", "stop", "seed", "response_format"),
        *("presence_penalty", "frequency_penalty", "tools", "tool_choice"),
    }
)
_SIGNS = {
    "response_format": re.compile(r"grammar|schema|regex|structured|json", re.IGNORECASE),
    **{name: re.compile(rf"\b{name}\b") for name in sorted(_FIELDS - {"response_format"})},
}


def _finish(reason: str | None) -> FinishReason | None:
    match reason:
        case None:
            return None
        case "length":
            return "length"
        case "content_filter":
            return "content_filter"
        case _:
            return "stop"
