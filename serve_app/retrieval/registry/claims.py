"""How documents change hands and versions: what happens inside one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from serve_app.database import missing_only
from serve_app.errors import ClaimLost
from serve_app.retrieval.registry import series, tables
from serve_app.retrieval.registry.again import read_again
from serve_app.retrieval.registry.behind import is_behind, joined
from serve_app.retrieval.registry.entries import (
    UNKNOWN,
    Claim,
    Committed,
    Copy,
    Entry,
    Facts,
    Intent,
    Obsolete,
)

T = TypeVar("T")

_PART = 500  # rows that one statement names

documents, copies = tables.documents.c, tables.copies.c


class Busy(Exception):
    """Another writer has one of the documents."""


def parts(everything: Sequence[T]) -> Iterable[Sequence[T]]:
    """In parts that one statement may name."""
    return (everything[start : start + _PART] for start in range(0, len(everything), _PART))


def entry(row: Row[Any]) -> Entry:
    facts = Facts(
        row.tenant,
        row.id,
        row.title,
        row.as_of,
        row.time,
        row.series,
        row.source,
        row.url,
        row.sha256,
        row.run,
        row.allow,
    )
    return Entry(
        facts,
        row.state,
        row.version,
        row.since,
        row.until,
        row.problem,
        row.created_at,
        row.updated_at,
        row.claim,
        row.claimed_until,
        row.intent,
    )


def copy(row: Row[Any]) -> Copy:
    return Copy(
        row.key,
        row.tenant,
        row.version,
        row.since,
        row.until,
        row.chunks,
        row.tokens,
        row.hash,
    )


def register(connection: Connection, collection: str, wanted: Sequence[Facts], now: float) -> None:
    """Make rows of documents that have none."""
    rows = [
        {
            "collection": collection,
            "key": facts.key,
            "tenant": facts.tenant,
            "id": facts.id,
            "state": "pending",
            "created_at": now,
            "updated_at": now,
        }
        for facts in sorted(wanted, key=lambda facts: facts.key)
    ]
    for part in parts(rows):
        missing_only(connection, tables.documents, list(part))


def take(
    connection: Connection,
    collection: str,
    wanted: Sequence[Facts],
    token: str,
    now: float,
    seconds: float,
    intent: Intent | None,
    *,
    skip_busy: bool = False,
) -> list[Claim]:
    """Claim documents that are registered.

    Raises:
        Busy: One of them is claimed. Nothing may be kept of the transaction.
    """
    rows = _rows(connection, collection, [facts.key for facts in wanted], lock=True)
    made = []
    for facts in wanted:
        row = rows.get(facts.key)
        if row is None:
            continue
        if row.claim not in (None, token) and row.claimed_until >= now:
            if skip_busy:
                continue
            raise Busy
        # Milliseconds, so that one that was forgotten and comes again has a later one too.
        version = max(int(now * 1000), row.version + 1, row.next_version + 1)
        since, until = series.bounds(connection, collection, facts)
        made.append(Claim(entry(row), version, since, until))
    _each(
        connection,
        collection,
        [
            {
                "of": each.key,
                "claim": token,
                "claimed_until": now + seconds,
                "next_version": each.version,
                "intent": intent or each.before.intent,
            }
            for each in made
        ],
    )
    return made


def held(
    connection: Connection, collection: str, token: str, keys: Sequence[str]
) -> dict[str, Row[Any]]:
    """Rows of claimed documents, locked.

    Raises:
        ClaimLost: One of them is not the writer's any more.
    """
    rows = _rows(connection, collection, keys, lock=True)
    if any(key not in rows or rows[key].claim != token for key in keys):
        raise ClaimLost("writing took so long that somebody else writes it now; try again")
    return rows


def put_in_force(
    connection: Connection,
    collection: str,
    token: str,
    puts: Mapping[str, tuple[Facts, Mapping[str, Copy]]],
    deletes: Sequence[str],
    now: float,
) -> Committed:
    """Put documents in force as they were written, and others out of it.

    Raises:
        ClaimLost: As `held`.
    """
    keys = [*puts, *deletes]
    # Before the rows: who has a series may want these rows too.
    were = [entry(row).facts for row in _rows(connection, collection, keys).values()]
    series.lock(connection, collection, [*were, *(facts for facts, _ in puts.values())])
    rows = held(connection, collection, token, keys)
    elsewhere = [key for key, (facts, _) in puts.items() if facts.url != rows[key].url]
    left = [rows[key] for key in (*elsewhere, *deletes) if rows[key].state == "in"]
    read_again(connection, collection, left)
    before = copies_of(connection, collection, keys)
    _each(
        connection,
        collection,
        [
            {
                "of": key,
                "state": "in",
                "problem": "",
                "version": rows[key].next_version,
                "title": facts.title,
                "as_of": facts.as_of,
                "time": facts.time,
                "series": facts.series,
                "since": next(iter(made.values())).since,
                "until": next(iter(made.values())).until,
                "source": facts.source,
                "url": facts.url,
                "sha256": facts.sha256,
                "run": facts.run,
                "allow": facts.allow,
                "updated_at": now,
            }
            for key, (facts, made) in puts.items()
        ],
    )
    _each(
        connection,
        collection,
        [
            {
                "of": key,
                "state": "deleted",
                "problem": "",
                "version": rows[key].next_version,
                # What it said is to be gone.
                "title": "",
                "as_of": "",
                "series": "",
                "sha256": "",
                "allow": (),
                "updated_at": now,
            }
            for key in deletes
        ],
    )
    texts = {key: facts.original for key, (facts, _) in puts.items() if facts.original}
    _keep(connection, collection, keys, texts)
    by_index: dict[str, list[Copy]] = {}
    for _, made in puts.values():
        for index, each in made.items():
            by_index.setdefault(index, []).append(each)
    write_copies(connection, by_index)
    stays = {(index, each.key): each.version for index, them in by_index.items() for each in them}
    touched = [
        *(facts for facts, _ in puts.values()),
        *(entry(rows[key]).facts for key in keys if rows[key].state == "in"),
    ]
    return Committed(
        obsolete=tuple(
            each for each in before if stays.get((each.index, each.key)) != each.version
        ),
        redated=tuple(series.redate(connection, collection, touched, written=set(puts))),
    )


def release(connection: Connection, collection: str, token: str) -> list[str]:
    """Give up what a writer has; returns keys of what is behind in an active index all the same."""
    mine = select(documents.key).where(documents.collection == collection)
    keys = list(connection.execute(mine.where(documents.claim == token)).scalars())
    active = tables.collections.c
    asked = select(active.in_force, active.filling).where(active.name == collection)
    found = connection.execute(asked).one_or_none()
    late: set[str] = set()
    for index in filter(None, found or ()):
        for part in parts(keys):
            some = (
                select(documents.key)
                .select_from(joined(index))
                .where(documents.collection == collection, documents.key.in_(part), is_behind())
            )
            late |= set(connection.execute(some).scalars())
    # One that was never put is known no more.
    for part in parts(keys):
        connection.execute(
            delete(tables.documents).where(
                documents.collection == collection,
                documents.key.in_(part),
                documents.state == "pending",
                documents.claim == token,
            )
        )
    free = {"claim": None, "claimed_until": None, "intent": ""}
    to_mend = {"claim": "", "claimed_until": 0.0, "intent": "copy"}
    _each(
        connection,
        collection,
        [{"of": key, **(to_mend if key in late else free)} for key in keys],
    )
    return sorted(late)


def copies_of(connection: Connection, collection: str, keys: Sequence[str]) -> list[Obsolete]:
    """Every copy of documents, in whichever of the collection's indexes."""
    indexes = tables.indexes.c
    own = select(indexes.name).where(indexes.collection == collection)
    names = list(connection.execute(own).scalars())
    found = []
    for part in parts(keys):
        asked = select(tables.copies).where(copies.index_name.in_(names), copies.key.in_(part))
        found += [
            Obsolete(row.index_name, row.key, row.version, row.chunks)
            for row in connection.execute(asked)
        ]
    return found


def write_copies(connection: Connection, by_index: Mapping[str, Sequence[Copy]]) -> None:
    """Register copies, in the place of those that the same documents had in the same indexes."""
    for index, made in by_index.items():
        for part in parts([each.key for each in made]):
            connection.execute(
                delete(tables.copies).where(copies.index_name == index, copies.key.in_(part))
            )
        if made:
            connection.execute(
                insert(tables.copies),
                [
                    {
                        "index_name": index,
                        "key": each.key,
                        "tenant": each.tenant,
                        "version": each.version,
                        "since": each.since,
                        "until": each.until,
                        "chunks": each.chunks,
                        "tokens": each.tokens,
                        "hash": each.hash,
                    }
                    for each in made
                ],
            )


def distrust(connection: Connection, index: str, keys: Sequence[str]) -> None:
    """Let an index be behind with documents: what their rows say is not known."""
    for part in parts(keys):
        connection.execute(
            update(tables.copies)
            .where(copies.index_name == index, copies.key.in_(part))
            .values(since=UNKNOWN)
        )


def _keep(
    connection: Connection,
    collection: str,
    keys: Sequence[str],
    originals: Mapping[str, str],
) -> None:
    """Keep what was put of some documents, by key, and of the others nothing."""
    kept = tables.originals.c
    for part in parts(keys):
        connection.execute(
            delete(tables.originals).where(kept.collection == collection, kept.key.in_(part))
        )
    if originals:
        connection.execute(
            insert(tables.originals),
            [
                {"collection": collection, "key": key, "content": content}
                for key, content in originals.items()
            ],
        )


def _rows(
    connection: Connection, collection: str, keys: Sequence[str], *, lock: bool = False
) -> dict[str, Row[Any]]:
    found: dict[str, Row[Any]] = {}
    # In one order, whoever asks: nobody waits for one who waits for him.
    for part in parts(sorted(keys)):
        asked = (
            select(tables.documents)
            .where(documents.collection == collection, documents.key.in_(part))
            .order_by(documents.key)
        )
        if lock:
            asked = asked.with_for_update()
        found |= {row.key: row for row in connection.execute(asked)}
    return found


def _each(connection: Connection, collection: str, rows: Sequence[dict[str, Any]]) -> None:
    """Update documents, each by its key `of`; all rows set the same columns."""
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        by_columns.setdefault(tuple(row), []).append(row)
    for names, some in by_columns.items():
        statement = (
            update(tables.documents)
            .where(documents.collection == collection, documents.key == bindparam("of"))
            .values({name: bindparam(f"to_{name}") for name in names if name != "of"})
        )
        connection.execute(
            statement,
            [{k if k == "of" else f"to_{k}": v for k, v in row.items()} for row in some],
        )
