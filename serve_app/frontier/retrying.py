"""One retry policy for all providers: again where that may help, before the first byte, in time."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    before_sleep_log,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from serve_app.coalescing import coalesce
from serve_app.domain import Delta, Generation, Lost
from serve_app.errors import (
    DeadlineExceeded,
    FrontierNotConfigured,
    FrontierRefused,
    FrontierResting,
    Overloaded,
    TriviumError,
    Unavailable,
)
from serve_app.frontier.billing import may_be_billed
from serve_app.frontier.circuit import Circuit
from serve_app.frontier.providers import Provider, failure
from serve_app.settings import FrontierSettings

log = logging.getLogger(__name__)

# "Full jitter" (Brooker, Exponential Backoff and Jitter, AWS 2015): at most .25 s, .5 s, 1 s, …
_backoff = wait_random_exponential(multiplier=0.25, max=8)
_PATIENCE_S = 5.0  # whom a provider asks to wait for longer than that takes another road

_Answer = AsyncGenerator[Delta]


class Retrying:
    """A provider that is asked again when it fails, and left alone while it keeps failing."""

    def __init__(self, provider: Provider, settings: FrontierSettings) -> None:
        self._provider = provider
        self._tries = 1 + settings.retries
        self._circuit = Circuit(settings.circuit)

    @property
    def resting(self) -> bool:
        """Whether the provider is being left alone."""
        return self._circuit.open

    async def generate(self, generation: Generation, deadline: float) -> _Answer:
        """As `Provider.generate`. Once text has come out, a failure is final.

        Tries that broke off and may be billed are told (`Delta.lost`), whatever comes after them.

        Args:
            deadline: Unix seconds. No pause goes beyond it.
        """
        begun: list[Delta] = []
        rest: _Answer | None = None
        billed = False  # the try before, perhaps
        tries = self._attempts(deadline)
        try:
            async for attempt in tries:
                if billed:
                    yield Delta(lost=(Lost(),))
                with attempt:
                    begun, rest = await self._first(generation)
                outcome = attempt.retry_state.outcome
                billed = rest is None and may_be_billed(outcome and outcome.exception())
        except TriviumError as error:
            if billed:
                yield Delta(lost=(Lost(again=False),))
            elif isinstance(error, DeadlineExceeded):
                # It took no connection. Whoever hears of a deadline pays for what was begun.
                raise failure(None) from error
            raise
        assert rest is not None
        async with aclosing(rest):
            for delta in begun:
                yield delta
            try:
                async for delta in rest:
                    yield delta
            except Unavailable:
                self._circuit.failed()
                raise
        self._circuit.succeeded()

    def _attempts(self, deadline: float) -> AsyncRetrying:
        return AsyncRetrying(
            stop=stop_after_attempt(self._tries) | stop_before_delay(deadline - time.time()),
            wait=_pause,
            retry=retry_if_exception(self._worthwhile),
            before_sleep=before_sleep_log(log, logging.WARNING),
            reraise=True,
        )

    async def _first(self, generation: Generation) -> tuple[list[Delta], _Answer]:
        """The deltas up to the first that says something, and those that follow."""
        self._circuit.enter()
        answer = coalesce(self._provider.generate(generation))
        begun: list[Delta] = []
        try:
            async for delta in answer:
                begun.append(delta)
                if delta.said or delta.finish_reason:
                    break
        except BaseException as error:
            self._note(error)
            await answer.aclose()
            raise
        return begun, answer

    def _note(self, error: BaseException) -> None:
        match error:
            case FrontierRefused() | Overloaded():
                self._circuit.succeeded()  # it is there, and answers
            case FrontierNotConfigured():
                pass
            case Unavailable():
                self._circuit.failed()

    def _worthwhile(self, error: BaseException) -> bool:
        """Whether the same request may succeed in a moment."""
        match error:
            # Another silence would take as long again.
            case (
                FrontierNotConfigured() | FrontierRefused() | FrontierResting() | DeadlineExceeded()
            ):
                return False
            case Unavailable() | Overloaded():
                return not self._circuit.open and _asked_s(error) <= _PATIENCE_S
        return False


def _pause(state: RetryCallState) -> float:
    """Seconds before the next try: what the provider asks for, or else a random few."""
    error = state.outcome.exception() if state.outcome else None
    return max(_asked_s(error), _backoff(state))


def _asked_s(error: BaseException | None) -> float:
    return getattr(error, "retry_after_s", None) or 0.0
