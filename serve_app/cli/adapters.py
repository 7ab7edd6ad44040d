"""`trivium adapters …`: trained adapters as releases that can be promoted and rolled back."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from serve_app.cli.client import DEFAULT_URL, Json, Key, Url
from serve_app.cli.console import out
from serve_app.cli.layers import DEFAULT_CONFIG, Config
from serve_app.cli.served import Verdict, wait_until_served
from serve_app.cli.tuning import base_of
from serve_app.errors import SettingsError
from serve_app.settings import Settings, load
from serve_app.storage import fetched

adapters = typer.Typer(
    help="Trained adapters as releases: added, promoted when no score falls, rolled back.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Name = Annotated[str, typer.Argument(help="Of the adapter.")]
Root = Annotated[
    str | None,
    typer.Option("--registry", help="Folder or fsspec URL; default: expert.adapters."),
]
Wait = Annotated[
    float,
    typer.Option(min=0.0, help="Seconds in which a running stack takes it over; 0: ask no stack."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be, change nothing.")]


@adapters.command("list")
def list_(registry: Root = None, config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Every adapter, its versions and the one that serves."""
    releases = _registry(registry, _settings(config))
    rows = [
        {"name": n, "versions": releases.versions(n), "current": releases.current(n)["version"]}
        for n in releases.names()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("adapter", "versions", "serves")
    for row in rows:
        table.add_row(row["name"], ", ".join(map(str, row["versions"])), str(row["current"] or "–"))
    out.print(table)


@adapters.command()
def show(
    name: Name, registry: Root = None, config: Config = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """The versions of an adapter: scores, data, licence, and how the one that serves came to."""
    releases = _registry(registry, _settings(config))
    manifests = [releases.manifest(name, version) for version in releases.versions(name)]
    if not manifests:
        releases.manifest(name, 1)  # says that there is none
    state = releases.current(name)
    if as_json:
        print(json.dumps({"name": name, **state, "versions": manifests}))
        return
    table = Table("version", "base", "rank", "rows", "scores", "licence", "date")
    for each in manifests:
        marked = " (serves)" if each["version"] == state["version"] else ""
        scores = ", ".join(f"{k} {v:.4g}" for k, v in each["scores"].get("after", {}).items())
        rows = (each["recipe"].get("train") or {}).get("rows", "–")
        cells = (each["base"]["name"], each["rank"], rows, scores or "–", each["licence"] or "–")
        table.add_row(f"{each['version']}{marked}", *map(str, cells), each["date"])
    out.print(table)
    for event in state["history"]:
        out.print(f"{event['date']}  {event['action']} to {event['version']}")


@adapters.command()
def add(
    name: Name,
    folder: Annotated[
        str, typer.Argument(help="What `trivium train expert` wrote: a folder, or its URL.")
    ],
    scores: Annotated[
        Path | None,
        typer.Option(
            help='JSON: {"before": {…}, "after": {"validation": 0.9, "canary": 1.0}}; higher is '
            "better. Without it the version cannot be promoted."
        ),
    ] = None,
    contract: Annotated[
        Path | None, typer.Option(help="What its output must look like; kept beside it.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Model it belongs to; default: the expert's own.")
    ] = None,
    max_rank: Annotated[int, typer.Option(min=1, help="Refuse a higher rank.")] = 64,
    max_bytes: Annotated[int, typer.Option(min=1, help="Refuse a larger folder.")] = 1 << 30,
    registry: Root = None,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Check a trained adapter and copy it in as the next version; it does not serve yet.

    [bold]Example:[/bold] trivium adapters add house adapters/house --scores scores.json
    """
    from serve_app.expert.admission import Limits, admit

    settings = _settings(config)
    measured = _scores(scores) if scores else {}
    promised = _contract(contract) if contract else None
    with tempfile.TemporaryDirectory(prefix="trivium-adapter-") as here:
        trained = fetched(folder, Path(here))
        candidate = admit(trained, base_of(settings, base), Limits(max_rank, max_bytes))
        manifest = _registry(registry, settings).add(name, candidate, measured, promised)
    if as_json:
        print(json.dumps(manifest))
        return
    out.print(
        f"[bold]{name}[/bold] version {manifest['version']} added, {manifest['bytes']:,} bytes"
    )


@adapters.command()
def promote(
    name: Name,
    version: Annotated[int, typer.Argument(help="Which version shall serve.")],
    tolerance: Annotated[float, typer.Option(min=0.0, help="By how much a score may fall.")] = 0.0,
    dry_run: DryRun = False,
    wait: Wait = 60.0,
    registry: Root = None,
    config: Config = DEFAULT_CONFIG,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Let a version serve, if no score falls against the one that serves now.

    Before the first promotion the base serves, and the version's own [bold]before[/bold] scores
    are the ones to keep up with. Where a stack runs, the command waits until it serves the version,
    and exits 1 when it refuses it.
    """
    releases = _registry(registry, _settings(config))
    done = releases.promote(name, version, tolerance, dry_run=dry_run)
    _tell(done, dry_run, as_json, url, api_key, wait)


@adapters.command()
def rollback(
    name: Name,
    dry_run: DryRun = False,
    wait: Wait = 60.0,
    registry: Root = None,
    config: Config = DEFAULT_CONFIG,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Let the version serve again that did before the last promotion.

    Before the first promotion that was none: the name is then served no longer.
    """
    done = _registry(registry, _settings(config)).rollback(name, dry_run=dry_run)
    _tell(done, dry_run, as_json, url, api_key, wait)


def _tell(
    done: dict[str, Any], dry_run: bool, as_json: bool, url: str, key: str | None, wait_s: float
) -> None:
    """What the registry says now, and what the stack does.

    Raises:
        Exit: The stack does not serve what it should.
    """
    verdict = Verdict(None, "a dry run")
    if not dry_run:
        verdict = wait_until_served(url, key, done["name"], done["to"], wait_s)
    if as_json:
        told = {"served": verdict.served, "reason": verdict.reason}
        print(json.dumps({**done, "dry_run": dry_run, **told}))
    else:
        _say(done, dry_run, verdict)
    if verdict.served is False:
        raise typer.Exit(1)


def _say(done: dict[str, Any], dry_run: bool, verdict: Verdict) -> None:
    what = f"version {done['to']}" if done["to"] else "no version"
    match verdict.served:
        case True:
            verb = "serves"
        case False:
            verb = "is promoted, and the stack does not follow"
        case None:
            verb = "would serve" if dry_run else "is promoted"
    before = done["from"] or "the base"
    out.print(f"[bold]{done['name']}[/bold] {what} {verb} (before: {before})")
    for measure, (now, then) in done.get("scores", {}).items():
        out.print(f"  {measure} {now:.4g} → {then:.4g}")
    if verdict.reason and not dry_run:
        out.print(f"  {verdict.reason}")


def _settings(config: Path) -> Settings:
    return load(config if config.is_file() else None).resolved(Path.cwd())


def _registry(root: str | None, settings: Settings) -> Any:
    # Imported here: fsspec is not needed by the other commands.
    from serve_app.expert.adapters import Registry

    return Registry(root or settings.expert.adapters)


def _scores(path: Path) -> dict[str, dict[str, float]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        read = {
            part: {str(k): float(v) for k, v in found[part].items()}
            for part in ("before", "after")
            if part in found
        }
        if set(found) - set(read) or not all(map(math.isfinite, read["after"].values())):
            raise ValueError("only `before` and `after`, of finite numbers")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f'{path}: not scores ({error}); they look like {{"before": {{"validation": 0.4}}, '
            '"after": {"validation": 0.9}}'
        ) from None
    return read


def _contract(path: Path) -> tuple[str, bytes]:
    try:
        return path.name, path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
