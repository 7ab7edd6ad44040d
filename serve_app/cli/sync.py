"""`trivium sync`: knowledge bases kept in step with their sources."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from serve_app import domain
from serve_app.cli import documents, sending
from serve_app.cli.client import DEFAULT_URL, Client, Json, Key
from serve_app.cli.console import errors, out
from serve_app.cli.layers import DEFAULT_CONFIG, Config
from serve_app.cli.ledgers import with_settings
from serve_app.errors import SettingsError, TriviumError, UnprocessableDocument
from serve_app.fetching import Content, Unfetchable, fetch
from serve_app.ledger.sources import Sources, Standing
from serve_app.retrieval import formats, sites
from serve_app.retrieval.formats.addresses import document_id, file_name
from serve_app.retrieval.rows import Rows
from serve_app.retrieval.sources import MAX_BYTES, discover, listed, twice
from serve_app.settings import Settings, load
from serve_app.settings.sync import SourceSettings, TableSource

_FETCH_S = 60.0


@dataclass(slots=True)
class Read:
    """What a source holds.

    Attributes:
        changed: Documents that may have changed since the last time.
        ids: Of all documents that it holds.
        seen: How far it was read, for the next time.
        problems: What could not be read, a line each; nothing is removed then.
        left_out: What else is not in the documents, a line for each file or page.
    """

    changed: list[domain.Document] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    seen: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Synced:
    """What a run did, or would do.

    Attributes:
        documents: That were sent, as they may have changed; `embedded` chunks of them had.
        removed: How much the source has no more: documents, of files chunks.
        gone: Ids of those documents.
        problems, left_out: As in `Read`.
    """

    source: str
    documents: int = 0
    embedded: int = 0
    removed: int = 0
    gone: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def sync(
    names: Annotated[
        list[str] | None, typer.Argument(help="Of sync.sources in the settings; default: all.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent and what would go.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on, each source on its schedule (every_s).")
    ] = False,
    config: Config = DEFAULT_CONFIG,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            envvar="TRIVIUM_URL",
            help="Where Trivium answers. Files go straight to the settings' Milvus without it.",
            rich_help_panel="Connection",
        ),
    ] = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Bring knowledge bases into step with their sources: folders, buckets, websites, tables.

    Files are ingested as by [bold]trivium ingest[/bold]; changed pages and rows are sent to the
    running stack, which embeds them. What a source has lost is removed, unless something of it
    could not be read. How each source stands is kept in the ledger, and told as metrics by the
    gateways.

    The exit code is 1 when a source could not be brought into step.

    [bold]Example:[/bold] trivium sync handbook --dry-run
    """
    settings = load(config).resolved(Path.cwd())
    chosen = _chosen(settings, names)
    due = dict.fromkeys(chosen, 0.0)
    failed = False
    while True:
        for name, source in chosen.items():
            if due[name] <= time.monotonic():
                due[name] = time.monotonic() + source.every_s
                done = _one(settings, config, name, source, url, api_key, dry_run=dry_run)
                failed |= bool(done.problems)
                _show(done, as_json=as_json, dry_run=dry_run)
        if not watch or dry_run:
            break
        time.sleep(max(0.0, min(due.values()) - time.monotonic()))
    if failed:
        raise typer.Exit(1)


def _chosen(settings: Settings, names: Sequence[str] | None) -> dict[str, SourceSettings]:
    known = settings.sync.sources
    if not known:
        raise SettingsError("the settings name no sources: see sync.sources")
    for name in names or ():
        if name not in known:
            raise SettingsError(f"sync.sources has no {name!r}; it has {', '.join(known)}")
    return {name: known[name] for name in names or known}


def _one(
    settings: Settings,
    config: Path,
    name: str,
    source: SourceSettings,
    url: str | None,
    api_key: str | None,
    *,
    dry_run: bool,
) -> Synced:
    """Bring one source into step, and note how that went."""

    async def standing(database: Any) -> Standing:
        return await Sources(database).get(name, source.collection)

    read = Read()
    try:
        if source.files is not None:
            done = _files(name, source, config, url, api_key, dry_run=dry_run)
        else:
            before = with_settings(settings, standing)
            read = asyncio.run(_read(name, source, before.seen))
            with Client(url or DEFAULT_URL, api_key) as client:
                done = _bring(client, name, source, read, dry_run=dry_run)
    except TriviumError as error:
        done = Synced(name, problems=[error.message])
    if dry_run:
        return done

    async def note(database: Any) -> None:
        if done.problems:
            await Sources(database).failed(name, source.collection, done.problems[0])
        else:
            await Sources(database).synced(name, source.collection, read.seen)

    with_settings(settings, note)
    return done


def _bring(
    client: Client, name: str, source: SourceSettings, read: Read, *, dry_run: bool
) -> Synced:
    """Send what changed, and remove what is gone."""
    there = f"/v1/collections/{source.collection}/documents"
    known_by = _known_by(name)
    changed = [
        sending.as_sent(each, source=known_by, url=each.url, allow=list(each.allow or source.allow))
        for each in read.changed
    ]
    problems = list(read.problems)
    embedded = 0
    if not dry_run:
        embedded = sending.put(client, there, changed, problems).embedded
    gone: list[str] = []
    if not problems:
        gone = sorted(sending.listed(client, there, known_by) - read.ids)
        for each in gone:
            sending.removed(client, there, each, dry_run)
    return Synced(name, len(changed), embedded, len(gone), gone, problems, read.left_out)


def _known_by(name: str) -> str:
    """What documents of a source are known by from run to run, wherever it lies."""
    return f"sync:{name}"


def _files(
    name: str,
    source: SourceSettings,
    config: Path,
    url: str | None,
    api_key: str | None,
    *,
    dry_run: bool,
) -> Synced:
    """As `trivium ingest` does it."""
    known_by = ([source.files or ""], _known_by(name), source.allow)
    if url is not None:
        found = discover(*known_by)
        report, problems, left_out = sending.send(
            found, source.collection, url, api_key, dry_run=dry_run
        )
    else:
        files = listed(*known_by)
        done = documents.bulk(files, source.collection, source.tenant, config, dry_run=dry_run)
        report, problems, left_out = done.report, list(done.problems), list(done.left_out)
    return Synced(name, report.documents, report.embedded, report.removed, [], problems, left_out)


async def _read(name: str, source: SourceSettings, seen: Mapping[str, Any]) -> Read:
    if source.sitemap is not None:
        return await _site(source.sitemap, seen)
    assert source.table is not None
    return await _table(name, source.table, seen)


async def _site(sitemap: str, seen: Mapping[str, Any]) -> Read:
    """Pages that the sitemap does not say to be as they were."""
    read = Read()
    known: Mapping[str, Any] = seen.get("pages", {})
    noted: dict[str, Any] = {}

    async def fetched(url: str) -> Content:
        try:
            async with asyncio.timeout(_FETCH_S):
                # Whose site it is says the settings: it may be one of the house.
                return await fetch(url, max_bytes=MAX_BYTES, accept="*/*", allowed=_anywhere)
        except TimeoutError:
            raise Unfetchable("its host is too slow") from None

    for page in await sites.pages(sitemap, fetched):
        before = known.get(page.url)
        if before and page.changed and before["changed"] == page.changed:
            read.ids.update(before["ids"])
            noted[page.url] = before
            continue
        try:
            content = await fetched(page.url)
            name, own = file_name(page.url, content.kind), document_id(page.url)
            found = await asyncio.to_thread(formats.read, name, content.data, own)
        except Unfetchable as error:
            read.problems.append(f"{page.url}: cannot be fetched: {error}")
            continue
        except TriviumError as error:
            read.problems.append(error.message)
            continue
        ids = _add(read, page.url, found)
        noted[page.url] = {"changed": page.changed, "ids": ids}
    read.seen = {"pages": noted}
    return read


async def _table(name: str, source: TableSource, seen: Mapping[str, Any]) -> Read:
    rows = Rows(name, source)
    read = Read(seen=dict(seen))
    read.ids = await rows.ids()
    if not read.ids:
        raise UnprocessableDocument(
            f"{name}: {source.table!r} is empty: nothing is removed, as that may be a mistake"
        )
    for part in await rows.changed(str(seen.get("cursor", ""))):
        read.changed += part.documents
        read.problems += part.problems
        read.seen = {"cursor": part.cursor}
    return read


def _anywhere(address: object) -> bool:
    return True


def _add(read: Read, url: str, found: formats.Reading) -> list[str]:
    """What a file or a page holds; the ids of its documents."""
    read.problems += found.problems
    read.left_out += filter(None, [found.losses(url)])
    ids: list[str] = []
    for each in found.documents:
        if each.id in read.ids:
            read.problems.append(twice(url, each.id))
            continue
        read.ids.add(each.id)
        ids.append(each.id)
        read.changed.append(replace(each, url=url))
    return ids


def _show(done: Synced, *, as_json: bool, dry_run: bool) -> None:
    for problem in done.problems:
        errors.print(f"[yellow]{done.source}[/yellow] {escape(problem)}", soft_wrap=True)
    for losses in done.left_out:
        errors.print(f"[dim]{done.source} {escape(losses)}[/dim]", soft_wrap=True)
    if as_json:
        print(json.dumps({**asdict(done), "dry_run": dry_run}), flush=True)
        return
    would = "would be " if dry_run else ""
    out.print(
        f"[bold]{done.source}[/bold]: {done.documents} documents {would}sent, "
        f"{done.removed} {would}removed"
    )
    for each in done.gone if dry_run else ():
        out.print(f"  {escape(each)} would go")
