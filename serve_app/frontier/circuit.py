"""A circuit breaker: a provider that keeps failing is left alone for a while.

After Nygard, *Release It!* (2007). Requests that would fail are refused at once, so that they can
take another road while there is time; one request in each rest finds out whether it is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from serve_app.errors import FrontierResting
from serve_app.settings import CircuitSettings


class Circuit:
    """Of one provider and model. Not thread-safe: all calls come from one event loop."""

    def __init__(
        self, settings: CircuitSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._failures = 0  # in a row
        self._rests_until = 0.0

    @property
    def open(self) -> bool:
        """Whether the provider is being left alone."""
        return self._failures >= self._settings.failures

    def enter(self) -> None:
        """Before each call.

        Raises:
            FrontierResting: The provider has failed too often, too recently.
        """
        if not self.open:
            return
        left = self._rests_until - self._clock()
        if left > 0:
            raise FrontierResting(
                f"the frontier provider has failed {self._failures} times in a row; "
                f"it is tried again in {left:.0f} s",
                retry_after_s=left,
            )
        # This one finds out, and the others stay away meanwhile. Should nothing come of it (its
        # caller has left), the next one after the rest finds out.
        self._rests_until = self._clock() + self._settings.rest_s

    def succeeded(self) -> None:
        """A call has come to its end."""
        self._failures = 0

    def failed(self) -> None:
        """A call has not, whether before its first byte or after."""
        self._failures += 1
        self._rests_until = self._clock() + self._settings.rest_s
