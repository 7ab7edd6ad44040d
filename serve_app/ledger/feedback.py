"""Answers are good or bad: who asked says so, or a rule that can tell."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from serve_app.errors import NotFound
from serve_app.ledger import tables
from serve_app.ledger.database import Database

_CALLER = "caller"


async def judge(database: Database, tenant: str, request_id: str, *, good: bool) -> None:
    """Note what the caller says of their answer; it overrules a rule's judgement.

    Of several with the same id, which callers may choose, the newest is meant.

    Raises:
        NotFound: The tenant has no such answer.
    """
    answers = tables.answers
    mine = (answers.c.tenant == tenant) & (answers.c.request_id == request_id)
    mine &= tables.is_question
    newest = select(answers.c.id).where(mine).order_by(answers.c.started_at.desc()).limit(1)

    def note(connection: Connection) -> bool:
        found = connection.execute(newest).scalar_one_or_none()
        changed = update(answers).where(answers.c.id == found).values(good=good, judge=_CALLER)
        connection.execute(changed)
        return found is not None

    if not await database.write(note):
        raise NotFound(f"there is no answer {request_id!r}", param="id")
