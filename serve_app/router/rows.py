"""Labelled queries: what the router is trained and measured on.

JSONL, a row a line, with `query` or `messages` and any of the labels

    route       expert, knowledge or frontier
    intent      a declared intent, or "oos" for what belongs to none
    volatile    0 or 1
    complex     0 to 1: how likely a small model fails where a frontier model succeeds
    weak_correct, strong_correct        the two models' outcomes, 0 to 1
    score, cost_usd                     outcomes and costs by model (RouterBench)
    weak_usd, strong_usd                what the two models' answers cost
    paraphrase                          the same in other words: a decision should not change

A head learns from the rows that carry its label. Other fields are ignored. Feedback is rows too:

    route, good          the road that was taken, and whether the answer was good
    better               the road that would have been right, where somebody said so

What was good confirms its road, what was bad says nothing of any road unless a better one is named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.domain import Message, Route
from serve_app.errors import SettingsError
from serve_app.jsonl import objects
from serve_app.router.turns import Turns, cut, turns

_WANTED = '{"query": …} or {"messages": […]}, and labels'
WEAK, STRONG = "mistralai/mixtral-8x7b-chat", "gpt-4-1106-preview"


@dataclass(frozen=True, slots=True)
class Row:
    """A query with its labels; `None` where the row has none.

    Attributes:
        source: Where it comes from; a label that goes along with the source is a confound.
        intent: The intent, or the road's own name.
        weak: Share of right answers of a small model; `strong`: of a frontier model.
        costs: What their answers cost, in dollars.
        paraphrase: The last turn in other words.
    """

    turns: Turns
    source: str
    id: str = ""
    intent: str | None = None
    volatile: float | None = None
    complex: float | None = None
    weak: float | None = None
    strong: float | None = None
    costs: tuple[float, float] | None = None
    paraphrase: str | None = None


def read_rows(path: Path) -> list[Row]:
    """The rows of a file.

    Raises:
        SettingsError: The file cannot be read, is empty, or a row is bad (which one, and why).
    """
    rows = [_row(path, number, data) for number, data in objects(path, _WANTED)]
    if not rows:
        raise SettingsError(f"{path}: holds no rows; each line is a JSON object with a query")
    return rows


def utterance_rows(intent: str, utterances: Sequence[str] | Path) -> list[Row]:
    """Rows for an intent declared by its utterances.

    Raises:
        SettingsError: The file of utterances cannot be read.
    """
    if isinstance(utterances, Path):
        try:
            lines = utterances.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{utterances}: cannot be read: {error}") from None
        utterances = [line for line in lines if line.strip()]
    return [Row(Turns(cut(text)), source=intent, intent=intent) for text in utterances]


def read_turns(path: Path) -> Iterator[tuple[str, Turns]]:
    """The ids and turns of a file of `{"id","query"}` or `{"id","messages"}`, labels or not.

    Raises:
        SettingsError: As `read_rows`.
    """
    for number, data in objects(path, _WANTED):
        try:
            yield str(data.get("id", number)), _turns(data)
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{path}:{number}: {_reason(error)}") from None


def _row(path: Path, number: int, data: Mapping[str, Any]) -> Row:
    try:
        asked = _turns(data)
        if not asked.last.strip():
            raise ValueError("query must be a text that is not empty")
        route = _route(data)
        intent = data.get("intent", route)
        if intent is not None and not (isinstance(intent, str) and intent):
            raise ValueError("intent must be a name")
        weak, strong = _outcomes(data)
        return Row(
            turns=asked,
            source=path.name,
            id=str(data.get("id", number)),
            intent=intent,
            volatile=_share(data, "volatile"),
            complex=_share(data, "complex"),
            weak=weak,
            strong=strong,
            costs=_costs(data),
            paraphrase=_paraphrase(data),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path}:{number}: {_reason(error)}") from None


def _paraphrase(data: Mapping[str, Any]) -> str | None:
    found = data.get("paraphrase")
    if found is not None and not (isinstance(found, str) and found.strip()):
        raise ValueError("paraphrase must be a text that is not empty")
    return found


def _route(data: Mapping[str, Any]) -> str | None:
    named = data.get("better") or (data.get("route") if data.get("good", True) else None)
    return Route(named).value if named is not None else None


def _turns(data: Mapping[str, Any]) -> Turns:
    if "query" in data:
        if not isinstance(data["query"], str):
            raise ValueError("query must be a text that is not empty")
        return Turns(cut(data["query"]))
    if "messages" not in data:
        raise ValueError("'query' is missing (or 'messages')")
    messages = [Message(m["role"], m["content"]) for m in data["messages"]]
    if not any(m.role == "user" for m in messages):
        raise ValueError("messages hold no user turn")
    if not all(isinstance(m.content, str) for m in messages):
        raise ValueError("content must be a text")
    return turns(messages)


def _outcomes(data: Mapping[str, Any]) -> tuple[float | None, float | None]:
    scores = data.get("score")
    if isinstance(scores, dict) and WEAK in scores and STRONG in scores:
        return float(scores[WEAK]), float(scores[STRONG])
    return _share(data, "weak_correct"), _share(data, "strong_correct")


def _costs(data: Mapping[str, Any]) -> tuple[float, float] | None:
    by_model = data.get("cost_usd")
    if isinstance(by_model, dict):
        weak, strong = by_model.get(WEAK), by_model.get(STRONG)
    else:
        weak, strong = data.get("weak_usd"), data.get("strong_usd")
    if weak is None or strong is None:
        return None
    for each in (weak, strong):
        if isinstance(each, bool) or not isinstance(each, int | float) or not 0 <= each < math.inf:
            raise ValueError("costs must be dollars, 0 or more")
    return float(weak), float(strong)


def _share(data: Mapping[str, Any], name: str) -> float | None:
    value = data.get(name)
    if value is None:
        return None
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1")
    return float(value)


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
