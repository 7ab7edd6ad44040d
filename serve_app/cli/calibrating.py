"""`trivium calibrate router`: the roads' outcomes on a team's own queries."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from serve_app.cli.client import DEFAULT_URL, Client, Json, Key, Url
from serve_app.cli.console import Bars, errors, out
from serve_app.domain import Route
from serve_app.errors import SettingsError
from serve_app.router.outcomes import KINDS, Outcomes, load_outcomes
from serve_app.router.recorded import Recorded, read_recorded

if TYPE_CHECKING:
    from serve_app.evaluation.calibration import Way
    from serve_app.evaluation.calling import Caller, Record, Row

calibrate = typer.Typer(
    help="Learn from a team's own queries what each road can do.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
_NAMED = 5  # answers that nobody judged


@calibrate.callback()
def _group() -> None:
    """Without a callback Typer would take a group of one command for that command."""


@calibrate.command("router")
def calibrate_router(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where what is known of the roads goes (.yaml).")
    ],
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries",
            "-q",
            help="JSONL: query or messages, and what is right: reference, matches or schema.",
        ),
    ] = None,
    recorded: Annotated[
        list[Path],
        typer.Option(
            "--recorded",
            help="Outcomes that are there already, JSONL: query, route, and success or good. "
            "Repeat for more files.",
        ),
    ] = [],  # noqa: B006  # Typer copies it
    prior: Annotated[
        Path | None, typer.Option(help="What was known before; default: what is shipped.")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="Every answer with its verdict, JSONL; default: OUTPUT.jsonl."),
    ] = None,
    road: Annotated[
        list[Route], typer.Option(help="Ask this one; repeat for more. Default: all three.")
    ] = [],  # noqa: B006
    sample: Annotated[int, typer.Option(min=1, help="Queries, drawn from the file.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same sample.")] = 0,
    judge: Annotated[
        str | None,
        typer.Option(help="Model that judges rows without a rule, as in trivium/frontier."),
    ] = None,
    budget: Annotated[
        float, typer.Option(min=0.0, help="Dollars that it may take at most.")
    ] = math.inf,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 512,
    at_once: Annotated[int, typer.Option(min=1, help="Requests at the same time.")] = 4,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take, and stop.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before spending.")] = False,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Ask every road of a running stack a team's own queries, and learn how well each answers.

    Each answer is judged by what its row says is right, or by [bold]--judge[/bold], and kept in the
    record at once: the same command goes on where one that was stopped left off, and pays for
    nothing twice. Of the outcomes a file is made for the setting [bold]router.outcomes[/bold]; a
    running stack takes it over with [bold]trivium reload[/bold]. The table shows what the router
    makes of queries that were left out of the fit, beside each road alone and a random mix of the
    same cost.

    [bold]Example:[/bold] trivium calibrate router -q queries.jsonl -o outcomes.yaml --budget 2
    """
    from serve_app.evaluation import calling

    if queries is None and not recorded:
        raise SettingsError("nothing to learn from: name --queries, --recorded, or both")
    known = load_outcomes(prior)
    roads = list(dict.fromkeys(road)) or list(Route)
    rows = calling.drawn(calling.read_queries(queries), sample, seed) if queries else []
    others = [each for path in recorded for each in read_recorded(path)]
    where = record or output.with_name(f"{output.name}.jsonl")
    with Client(url, api_key) as client:
        kept = calling.Record(where, rows)
        caller = calling.Caller(Http(client), kept, judge, max_tokens, at_once, budget)
        expected = _expected(caller, rows, roads)
        if rows:
            _tell(expected, kept, budget)
        if dry_run:
            if as_json:
                print(json.dumps({"dry_run": True, "queries": len(rows), "expected_usd": expected}))
            return
        if sum(expected.values()) and not yes:
            typer.confirm("Ask?", abort=True, err=True)
        within = _asked(caller, rows, roads)
        learned = _learned(known, caller, rows, roads, others)
    if not learned.outcomes:
        raise SettingsError(f"no answer was judged; {where} says why of each")
    _write(output, learned.found)
    if as_json:
        ways = {name: dataclasses.asdict(way) for name, way in learned.ways.items()}
        counts = {"judged": learned.outcomes, "not_judged": len(learned.failed)}
        told = {"output": str(output), "record": str(where), **counts, "usd": kept.usd}
        print(json.dumps({**told, "within_budget": within, "ways": ways}))
        return
    _show(known, learned)
    _warn(learned.failed, where, within=within)
    out.print(
        f"{output}: {learned.outcomes} outcomes, ${kept.usd:.4f}. Set router.outcomes to it, then "
        "[bold]trivium reload[/bold]"
    )


class Http:
    """`calling.Stack` over a connection."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def route(self, body: Row) -> Row:
        decision: Row = self._client.request("POST", "/v1/route", dict(body))
        return decision

    def chat(self, body: Row) -> tuple[Mapping[str, str], Row]:
        return self._client.exchange("POST", "/v1/chat/completions", dict(body))


def _expected(caller: Caller, rows: Sequence[Row], roads: Sequence[Route]) -> dict[str, float]:
    """Dollars by road, as the router expects them, of what is still to be asked."""
    with errors.status(f"asking the router about {len(rows)} queries"):
        return {
            road.value: sum(caller.expected(row, road) for row in rows if caller.missing(row, road))
            for road in roads
        }


def _tell(expected: Mapping[str, float], kept: Record, budget: float) -> None:
    by_road = ", ".join(f"{road} ${usd:.4f}" for road, usd in expected.items())
    spent = f"; ${kept.usd:.4f} spent before" if kept.found else ""
    bound = "" if math.isinf(budget) else f"; budget ${budget:.4f}"
    errors.print(
        f"to ask: about ${sum(expected.values()):.4f} ({by_road}; judging by a model comes on "
        f"top){spent}{bound}"
    )


def _asked(caller: Caller, rows: Sequence[Row], roads: Sequence[Route]) -> bool:
    total = sum(caller.missing(row, road) for row in rows for road in roads)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[usd]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Bars(*columns) as progress:
        task = progress.add_task("asking", total=total, usd="")

        def on_row(_: Row) -> None:
            progress.update(task, advance=1, usd=f"${caller.record.usd:.4f}")

        caller.on_row = on_row
        try:
            return caller.run(rows, roads)
        except KeyboardInterrupt:
            errors.print("stopped; the same command goes on from here")
            raise


@dataclasses.dataclass(frozen=True, slots=True)
class Learned:
    """What came of it.

    Attributes:
        outcomes: How many were learned from.
        failed: Rows of the record that nobody judged.
        ways: Ways to choose roads for the queries that every road answered, so many.
    """

    found: Outcomes
    outcomes: int
    failed: list[dict[str, Any]]
    ways: Mapping[str, Way]
    queries: int


def _learned(
    known: Outcomes,
    caller: Caller,
    rows: Sequence[Row],
    roads: Sequence[Route],
    recorded: Sequence[Recorded],
) -> Learned:
    from serve_app.evaluation import calibration, calling
    from serve_app.router.training.outcomes import fit

    lines = list(caller.record.found.values())
    judged = [calling.outcome(line) for line in lines if line["success"] is not None]
    judged += [calling.recorded_outcome(caller.stack, each) for each in recorded]
    done = list(calling.complete(rows, roads, caller.record))
    theirs = [[calling.outcome(line) for line in lines] for _, lines in done]
    ways = calibration.compare(known, [query for query, _ in done], theirs) if done else {}
    failed = [line for line in lines if line["success"] is None]
    return Learned(fit(known, judged), len(judged), failed, ways, len(done))


def _write(path: Path, found: Outcomes) -> None:
    """The file; complete or not at all."""
    text = yaml.safe_dump(found.model_dump(mode="json"), sort_keys=False)
    work = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work.write_text(f"# Made by `trivium calibrate router`.\n{text}", encoding="utf-8")
        os.replace(work, path)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written: {error}") from None


def _show(before: Outcomes, learned: Learned) -> None:
    after, title = learned.found, "chance of a right answer, before → after"
    table = Table("", *KINDS, title=title, title_justify="left", show_edge=False, pad_edge=False)
    for road in Route:
        cells = [
            f"{_chance(before.roads[road].offsets[kind])} → "
            f"{_chance(after.roads[road].offsets[kind])}"
            for kind in KINDS
        ]
        table.add_row(road.value, *cells)
    out.print(table)
    if not learned.ways:
        return
    title = f"{learned.queries} queries that every road answered, each left out of the fit once"
    table = Table(
        "", "right", "95 %", "$ each", "queries by road", title=title, title_justify="left",
        show_edge=False, pad_edge=False,
    )  # fmt: skip
    for name, way in learned.ways.items():
        counts = ", ".join(f"{road} {count}" for road, count in way.roads.items() if count)
        style = "bold" if name == "router after" else ""
        cells = [f"{way.success:.3f}", f"{way.low:.2f} to {way.high:.2f}", f"{way.usd:.6f}"]
        table.add_row(name, *cells, counts, style=style)
    out.print(table)


def _warn(failed: Sequence[Row], where: Path, *, within: bool) -> None:
    for line in failed[:_NAMED]:
        told = line["error"] or "no rule in its row, and no --judge"
        told = escape(f"{line['id']}, {line['route']}: {told}")
        errors.print(f"[yellow]not judged[/yellow] {told}")
    if len(failed) > _NAMED:
        errors.print(f"and {len(failed) - _NAMED} more; {where} has them")
    if not within:
        errors.print(
            "[yellow]stopped[/yellow]: more would not fit the budget; with a larger --budget the "
            "same command goes on"
        )


def _chance(logit: float) -> str:
    return f"{1 / (1 + math.exp(-logit)):.2f}"
