"""Outside model providers behind one interface: a generation in, deltas out.

Each provider is a module of its own, loaded only when the settings name it. The SDKs' own retries
are off; retrying is the business of the road, not of the wire.
"""

from __future__ import annotations

import contextlib
import email.utils
import logging
import math
import re
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import httpx

from serve_app.domain import Delta, FinishReason, Generation, Usage
from serve_app.errors import (
    DeadlineExceeded,
    FrontierNotConfigured,
    FrontierRefused,
    InvalidRequest,
    Overloaded,
    TriviumError,
    Unavailable,
)
from serve_app.frontier.options import BOUND, TABLE, WISHES, Fitted, Fitting
from serve_app.settings import UpstreamSettings
from serve_app.stopping import Stop

log = logging.getLogger(__name__)


class Provider(Protocol):
    """Somebody else's model."""

    def generate(self, generation: Generation) -> AsyncGenerator[Delta]:
        """Stream an answer; raises `TriviumError` before or between deltas."""
        ...

    async def aclose(self) -> None:
        """Close its connections."""
        ...


def provider(settings: UpstreamSettings, silence_s: float) -> Provider:
    """The provider that the settings name; it takes whatever a caller may ask for.

    Args:
        silence_s: How long it may say nothing.
    """
    asked: Provider
    match settings.provider:
        case "openai":
            from serve_app.frontier.openai import OpenAIProvider

            asked = OpenAIProvider(settings, silence_s)
        case "openai-responses":
            from serve_app.frontier.responses import ResponsesProvider

            asked = ResponsesProvider(settings, silence_s)
        case "anthropic":
            from serve_app.frontier.anthropic import AnthropicProvider

            asked = AnthropicProvider(settings, silence_s)
        case None:
            return NoProvider()
    return FittedProvider(asked, Fitting(settings.provider, settings.max_output_tokens))


CONNECT_S = 5.0


def patience(sdk: Any, silence_s: float) -> Any:
    """A provider's SDK's time-outs: for a connection, and for the next byte once there is one.

    Whatever arrives is a sign of life: pings and events of a model that thinks as well.
    """
    return sdk.Timeout(silence_s, connect=min(CONNECT_S, silence_s))


class FittedProvider:
    """Asks a provider for what its model takes, and keeps the rest itself."""

    def __init__(self, provider: Provider, fitting: Fitting) -> None:
        self._provider = provider
        self._fitting = fitting

    async def generate(self, generation: Generation) -> AsyncGenerator[Delta]:
        """As `Provider.generate`; the first delta says what was adapted."""
        without: set[str] = set()
        while True:
            begun = False
            fitted = self._fitting.fit(generation, without)
            try:
                async with aclosing(self._once(fitted)) as deltas:
                    async for delta in deltas:
                        begun = True
                        yield delta
            except InvalidRequest as error:
                param = error.param
                # What was sent: another request may have found out the same meanwhile.
                sent = fitted.generation.options
                if begun or param not in (*WISHES, "stop") or param not in sent:
                    raise
                without.add(param)
                self._fitting.learn(param, generation.options[param])
                log.warning("a model refuses a value of %s: it is asked without it", param)
            else:
                return

    async def aclose(self) -> None:
        await self._provider.aclose()

    async def _once(self, fitted: Fitted) -> AsyncGenerator[Delta]:
        adapted = fitted.adapted
        kept = Stop(fitted.stop, fitted.max_tokens)
        async with aclosing(self._provider.generate(fitted.generation)) as deltas:
            async for delta in deltas:
                text = kept.piece(delta.text)
                if delta.finish_reason:
                    text += kept.rest()
                reason = kept.reason or delta.finish_reason
                yield delta.having(text=text, adapted=adapted, finish_reason=reason)
                adapted = ()
                if kept.reason:
                    return


def not_configured() -> TriviumError:
    """Our error where there is no provider."""
    return FrontierNotConfigured(
        "no frontier provider is configured; set frontier.provider, frontier.model and its key"
    )


class NoProvider:
    """No key, no frontier: says so, and lets the graph choose another road."""

    async def generate(self, generation: Generation) -> AsyncGenerator[Delta]:
        raise not_configured()
        yield Delta()  # makes this an async generator

    async def aclose(self) -> None:
        """It has no connections."""


def headers(generation: Generation) -> dict[str, str]:
    """What tells the provider by which id we know a call, so that bills can be compared."""
    return {"x-client-request-id": generation.call_id} if generation.call_id else {}


def claimed(
    prompt: Any, completion: Any, cached: Any = None, reasoning: Any = None
) -> Usage | None:
    """What a provider says it took; the SDKs check nothing.

    What is no number of tokens is no claim, so that it is estimated rather than free.
    """
    if not (_is_count(prompt) and _is_count(completion)):
        log.warning("a provider's count of tokens is none: %.40r, %.40r", prompt, completion)
        return None
    return Usage(prompt, completion, *(n if _is_count(n) else 0 for n in (cached, reasoning)))


def told(theirs: Any, name: str) -> Any:
    """A part of what a provider says it took, as JSON or the SDK's type; `None` if it has none."""
    return theirs.get(name) if isinstance(theirs, Mapping) else getattr(theirs, name, None)


def _is_count(theirs: Any) -> bool:
    return type(theirs) is int and theirs >= 0


def finish_reason(theirs: str | None) -> FinishReason:
    """Why a provider's model stopped, in OpenAI's words."""
    match theirs:
        case "length" | "max_tokens":
            return "length"
        case "content_filter" | "refusal":
            return "content_filter"
        case "tool_calls" | "tool_use" | "function_call":
            return "tool_calls"
        case _:
            return "stop"


def failure(response: httpx.Response | None, param: str | None = None) -> TriviumError:
    """Our error for a provider's; `None` when there was no answer at all.

    The provider's own text is not passed on: it may name accounts or keys.

    Args:
        param: What the provider finds fault with, as callers write it.
    """
    if response is None or response.is_success:
        return Unavailable("the frontier provider cannot be reached, or broke off")
    status, after = response.status_code, retry_after_s(response.headers)
    match status:
        case 400 | 413 | 422:
            about = f" for its {param}" if param else ""
            told = f"the frontier provider refused the request{about} ({status})"
            return InvalidRequest(told, param=param)
        case 401 | 403:
            log.error("the provider refuses us (%d): is frontier.api_key still good?", status)
            return FrontierRefused(f"the frontier provider refuses us ({status})")
        case 404:
            log.error("the provider knows no such model: mend frontier.model or base_url")
            return FrontierRefused("the frontier provider has no such model (404)")
        case 429:
            return Overloaded("the frontier provider is at its limit", retry_after_s=after or 1.0)
        case _:
            return Unavailable(f"the frontier provider failed ({status})", retry_after_s=after)


@contextlib.contextmanager
def translated(sdk: Any) -> Iterator[None]:
    """Around the use of a provider's SDK (`openai`, `anthropic`): its errors become ours."""
    try:
        yield
    except TriviumError:
        raise
    except sdk.APITimeoutError as error:
        raise silence() from error
    except sdk.APIError as error:
        raise failure(getattr(error, "response", None), _param(error)) from error
    except Exception as error:
        # Whatever a broken server makes the SDK or its transport stumble over.
        raise failure(None) from error


# Where a provider's complaint begins, and what callers call that.
_PARAMS = {
    "max_output_tokens": BOUND,
    "max_tokens": BOUND,
    BOUND: BOUND,
    "text": "response_format",
    "output_config": "response_format",
    "effort": "reasoning_effort",
    "reasoning": "reasoning_effort",
    "stop_sequences": "stop",
    "input": "messages",
    "system": "messages",
    "messages": "messages",
    **{name: name for name in TABLE},
}
_NAMED = re.compile(r"[a-z_]{3,40}")


def _param(error: Any) -> str | None:
    """The caller's name of what a provider refuses: its `param`, or what its message names first.

    A wish about sampling is looked for first, as without it the request may be good.
    """
    body = getattr(error, "body", None)
    told = body.get("error", body) if isinstance(body, Mapping) else {}
    if isinstance(param := told.get("param") if isinstance(told, Mapping) else None, str):
        first, *rest = re.split(r"[.\[]", param)
        return _PARAMS.get("effort" if rest[:1] == ["effort"] else first)
    said = told.get("message") if isinstance(told, Mapping) else None
    names = _NAMED.findall(said[:500]) if isinstance(said, str) else []
    wishes = [name for name in names if _PARAMS.get(name) in WISHES]
    return next((_PARAMS[name] for name in (*wishes, *names) if name in _PARAMS), None)


def silence() -> TriviumError:
    """Our error for a provider that says nothing."""
    return DeadlineExceeded("the frontier provider did not answer in time")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that a provider asks us to wait: `retry-after-ms`, or `retry-after` (RFC 9110).

    `None` when it asks for nothing that can be understood.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        moment = email.utils.parsedate_to_datetime(headers.get("retry-after", "")).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    return max(0.0, moment - time.time())
