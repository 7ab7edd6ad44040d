"""The API server's refusals, as errors that say what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from serve_app.errors import (
    NotFound,
    PermissionDenied,
    TriviumError,
    Unauthenticated,
    Unavailable,
)


class Refused(TriviumError):
    """The API server refused; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status  # type: ignore[misc]


class Conflict(TriviumError):
    """A field that we would set belongs to somebody else, or an object is there already.

    Attributes:
        managers: Those that own the fields.
    """

    status, code = 409, "conflict"
    managers: frozenset[str] = frozenset()


class UnknownKind(Unavailable):
    """The cluster does not serve this kind: its CRD is not installed."""


def reason(error: Exception) -> str:
    """In a few words, without addresses of Python objects."""
    cause = getattr(error, "reason", None) or error
    return type(cause).__name__ if isinstance(cause, Exception) else str(cause)


def refusal(status: int, data: bytes) -> TriviumError:
    """An error answer, in the API server's words where it has some."""
    try:
        told = json.loads(data)
        message = told.get("message") or json.dumps(told)
    except (ValueError, AttributeError):
        told, message = {}, data.decode("utf-8", "replace").strip() or f"HTTP {status}"
    match status:
        case 401:
            return Unauthenticated(
                f"the cluster does not know who you are ({message}): log in again, or name "
                "another user with --context"
            )
        case 403:
            return PermissionDenied(message)
        case 404:
            return NotFound(message)
        case 409:
            return _conflict(message, (told.get("details") or {}).get("causes") or ())
        case 502 | 503 | 504:
            return Unavailable(message)
    return Refused(message, status)


def _conflict(message: str, causes: Iterable[Mapping[str, str]]) -> Conflict:
    """Who owns which field, where it is a conflict between managers."""
    fields = [each for each in causes if each.get("reason") == "FieldManagerConflict"]
    if not fields:
        return Conflict(message)
    told = ", ".join(f"{each['field']} ({each['message']})" for each in fields)
    error = Conflict(f"belongs to another manager: {told}; take it with --force-conflicts")
    error.managers = frozenset(
        name for each in fields for name in re.findall(r'conflict with "([^"]*)"', each["message"])
    )
    return error
