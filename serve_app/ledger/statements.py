"""The SQL that brings entries of the book into its tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Executable, bindparam, insert, update

from serve_app.ledger import tables
from serve_app.ledger.entries import Closing, Entry, Hold, Opening, Settlement
from serve_app.ledger.limits import Balance, periods

_SETTLING_S = 5.0  # a request has so long to be settled after its deadline
_SKEW_S = 25.0  # another host's clock may be ahead by so much before it ends our calls early

COUNTED = (
    update(tables.counters)
    .where(tables.counters.c.scope == bindparam("of"))
    .where(tables.counters.c.period == bindparam("during"))
)
_OPENED, _HELD = insert(tables.answers), insert(tables.calls)
_SETTLED = update(tables.calls).where(tables.calls.c.id == bindparam("call"))
_CLOSED = update(tables.answers).where(tables.answers.c.id == bindparam("answer"))


def statements(
    entries: Sequence[Entry], states: Mapping[str, str]
) -> Iterator[tuple[Executable, list[dict[str, Any]]]]:
    """What brings entries into their tables, with its rows; nothing for tables that get none.

    Args:
        states: Of calls that are to be settled, by id.
    """
    opened, held, settled, closed = [], [], [], []
    for entry in entries:
        match entry:
            case Opening():
                day = periods(entry.moment)["day"]
                opened.append({**entry.row, "id": entry.id, "day": day, **_begun(entry)})
            case Hold():
                amounts = {"held_nanos": entry.bound.nanos, "held_tokens": entry.bound.tokens}
                ids = {"id": entry.id, "answer_id": entry.answer_id}
                held.append({**entry.row, **ids, **amounts, **_begun(entry)})
            case Settlement() if states.get(entry.hold.id) in ("open", "lost"):
                settled.append({**entry.row, "call": entry.hold.id})
            case Closing():
                closed.append({**entry.row, "answer": entry.id})
    for statement, rows in (
        (_OPENED, opened),
        (_HELD, held),
        (_SETTLED, settled),
        (_CLOSED, closed),
    ):
        # A statement takes its columns from the first of its rows, and no others from the rest.
        shapes: dict[frozenset[str], list[dict[str, Any]]] = {}
        for row in rows:
            shapes.setdefault(frozenset(row), []).append(row)
        for alike in shapes.values():
            yield statement, alike


def _begun(entry: Opening | Hold) -> dict[str, Any]:
    return {
        "started_at": entry.moment,
        "lease_until": entry.deadline + _SETTLING_S + _SKEW_S,
        "tenant": entry.payer.tenant,
        "api_key": entry.payer.key,
        "status": "open",
    }


def amounts(balance: Balance) -> dict[str, int]:
    """A balance as a row of `counters` has it."""
    return {
        "requests": balance.spent.requests,
        "tokens": balance.spent.tokens,
        "nanos": balance.spent.nanos,
        "held_tokens": balance.held.tokens,
        "held_nanos": balance.held.nanos,
    }
