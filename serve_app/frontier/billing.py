"""Which failed tries a provider may send a bill for."""

from __future__ import annotations

from collections.abc import Iterator

from serve_app.errors import (
    FrontierNotConfigured,
    FrontierRefused,
    FrontierResting,
    Unavailable,
)

# Nothing of the request has left. By name: each SDK chooses its transport (httpx, httpx2).
_UNSENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})


def may_be_billed(error: BaseException | None) -> bool:
    """Whether a provider may have worked on a try that ended so.

    One that refuses, or says by its status that it failed, has not. One that says nothing for too
    long or breaks off may have, and may go on when nobody listens any more.
    """
    if not isinstance(error, Unavailable) or isinstance(
        error, FrontierNotConfigured | FrontierRefused | FrontierResting
    ):
        return False
    for cause in _causes(error):
        if type(cause).__name__ in _UNSENT:
            return False
        # An error in the middle of a stream has a response too, of status 200.
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int) and status >= 400:
            return False
    return True


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
