"""Recorded outcomes: how well a road answered a query. JSONL, a row a line, with

    query or messages
    route               the road that answered
    success             0 to 1; or `good`, as feedback has it
    kinds, complexity   what the router held the query to be; asked of it where they lack
    completion_tokens, cost_usd, latency_s      where they were measured
    source, id          for people

Other fields are ignored. Rows without a success (nobody judged the answer, or the road did not
give one) are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.domain import Route
from serve_app.errors import SettingsError
from serve_app.jsonl import objects
from serve_app.router.outcomes import KINDS

_WANTED = '{"query","route","success"}'


@dataclass(frozen=True, slots=True)
class Recorded:
    """One row.

    Attributes:
        query: The text, or the messages.
        kinds: The probability of each kind, as the router told them; `None` where nobody asked it.
        complexity: Likewise.
        tokens: Of the answer.
    """

    id: str
    query: str | list[dict[str, Any]]
    road: Route
    success: float
    kinds: Mapping[str, float] | None = None
    complexity: float | None = None
    tokens: int | None = None
    source: str = ""


def read_recorded(path: Path) -> list[Recorded]:
    """The judged rows of a file.

    Raises:
        SettingsError: The file cannot be read, or a row is bad (which one, and why).
    """
    found = []
    for number, data in objects(path, _WANTED):
        try:
            row = _row(data, str(number), path.name)
        except (ValueError, TypeError) as error:
            raise SettingsError(f"{path}:{number}: {error}") from None
        found += [row] if row else []
    return found


def _row(data: Mapping[str, Any], number: str, source: str) -> Recorded | None:
    success = data.get("success", data.get("good"))
    named = data.get("route")
    if named not in set(Route):
        raise ValueError(f"route must be one of {', '.join(Route)}, not {named!r}")
    if success is None:
        return None
    if not isinstance(success, bool | int | float) or not 0 <= success <= 1:
        raise ValueError(f"success must be a number from 0 to 1, not {success!r}")
    query = data.get("query", data.get("messages"))
    if not isinstance(query, str | list) or not query:
        raise ValueError("'query' is missing (or 'messages')")
    tokens = data.get("completion_tokens")
    if tokens is not None and (not isinstance(tokens, int) or isinstance(tokens, bool)):
        raise ValueError("completion_tokens must be a whole number")
    kinds, complexity = _kinds(data.get("kinds")), data.get("complexity")
    if complexity is not None and not (
        isinstance(complexity, int | float) and 0 <= complexity <= 1
    ):
        raise ValueError("complexity must be a number from 0 to 1")
    return Recorded(
        str(data.get("id", number)),
        query,
        Route(named),
        float(success),
        kinds,
        complexity,
        tokens,
        str(data.get("source", source)),
    )


def _kinds(told: Any) -> Mapping[str, float] | None:
    if told is None:
        return None
    if not isinstance(told, dict) or set(told) != set(KINDS):
        raise ValueError(f"kinds must give a probability for each of {', '.join(KINDS)}")
    if not all(isinstance(share, int | float) and 0 <= share <= 1 for share in told.values()):
        raise ValueError("kinds must be probabilities")
    return told
