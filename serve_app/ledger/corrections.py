"""A provider's claim that was wrong is set right by hand, and why is kept."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, tuple_, update

from serve_app.domain import Usage
from serve_app.errors import InvalidRequest, NotFound
from serve_app.ledger import tables
from serve_app.ledger.database import Database
from serve_app.ledger.limits import Payer, counters
from serve_app.ledger.prices import PriceTable

_calls, _counters, _answers = tables.calls.c, tables.counters.c, tables.answers.c


@dataclass(frozen=True, slots=True)
class Correction:
    """What a call was booked with, and what it is booked with now."""

    call_id: str
    model: str
    before: Usage
    before_usd: float
    after: Usage
    after_usd: float
    note: str


async def correct(
    database: Database, prices: PriceTable, call_id: str, usage: Usage, note: str, now: float
) -> Correction:
    """Book a call with other tokens: its row, its answer's cost, and every counter it is in.

    Raises:
        NotFound: There is no such call, or it is older than what is kept.
        InvalidRequest: It is still under way.
        SettingsError: Its model has no price any more.
    """
    return await database.write(
        lambda connection: _corrected(connection, prices, call_id, usage, note, now)
    )


def _corrected(
    connection: Connection,
    prices: PriceTable,
    call_id: str,
    usage: Usage,
    note: str,
    now: float,
) -> Correction:
    # Counters before calls, as the book locks them.
    found = connection.execute(select(tables.calls).where(_calls.id == call_id)).mappings().first()
    if found is None:
        raise NotFound(f"there is no call {call_id!r}; its id is in the log line of the claim")
    keys = sorted(counters(Payer(found["tenant"], found["api_key"]), found["started_at"]))
    mine = tuple_(_counters.scope, _counters.period).in_(keys)
    order = select(_counters.period).where(mine).order_by(_counters.scope, _counters.period)
    connection.execute(order.with_for_update()).all()
    locked = select(tables.calls).where(_calls.id == call_id).with_for_update()
    call = connection.execute(locked).mappings().one()
    if call["status"] == "open":
        raise InvalidRequest(f"call {call_id!r} is still under way; correct it when it is over")
    before = Usage(
        call["prompt_tokens"],
        call["completion_tokens"],
        call["cached_tokens"],
        call["reasoning_tokens"],
    )
    cost = prices.nanos(call["model"], usage)
    more = cost - call["cost_nanos"]
    booked = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cost_nanos": cost,
    }
    also = {
        # No late settlement changes it any more.
        "status": "corrected",
        "estimated": False,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "machine_seconds": prices.machine_seconds(call["model"], usage),
    }
    connection.execute(update(tables.calls).where(_calls.id == call_id).values(**booked, **also))
    tokens = usage.total_tokens - before.total_tokens
    changed = {"tokens": _counters.tokens + tokens, "nanos": _counters.nanos + more}
    connection.execute(update(tables.counters).where(mine).values(changed))
    answer = update(tables.answers).where(_answers.id == call["answer_id"])
    connection.execute(answer.values(cost_nanos=_answers.cost_nanos + more))
    replaced = {f"{name}_before": call[name] for name in booked}
    row = {"id": uuid.uuid4().hex, "call_id": call_id, "corrected_at": now, "note": note}
    connection.execute(insert(tables.corrections).values({**row, **booked, **replaced}))
    return Correction(
        call_id, call["model"], before, call["cost_nanos"] / 1e9, usage, cost / 1e9, note
    )
