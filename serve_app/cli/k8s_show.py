"""How `trivium k8s …` shows what they found: tables, diffs, and progress as it comes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from serve_app.cli.console import errors, out
from serve_app.cluster.diff import Change
from serve_app.cluster.findings import Finding
from serve_app.cluster.prices import UNLABELLED, Costs
from serve_app.cluster.status import Status

_MARKS = {"ok": "[green]ok[/green]", "warning": "[yellow]warning[/yellow]"}
_FAILED = "[red]failed[/red]"
_ACTIONS = {"create": "green", "change": "yellow", "delete": "red"}
_LINES = {"+": "green", "-": "red", "@": "cyan"}


def findings(found: Sequence[Finding]) -> None:
    """One line per finding, its remedy beside it."""
    table = Table("check", "", "finding", "remedy")
    for each in found:
        mark = _MARKS.get(each.level, _FAILED)
        table.add_row(each.check, mark, escape(each.message), escape(each.remedy))
    for column in table.columns:
        column.overflow = "fold"  # commands among the remedies are copied
    errors.print(table)


def diff(changes: Sequence[Change]) -> None:
    """What would change, as `kubectl diff` shows it."""
    for change in changes:
        colour = _ACTIONS[change.action]
        out.print(f"[bold {colour}]{change.action} {escape(str(change.ref))}[/bold {colour}]")
        for line in change.lines:
            out.print(escape(f"  {line}"), style=_LINES.get(line[0]))


def as_data(found: Sequence[Finding], changes: Sequence[Change]) -> dict[str, Any]:
    """Findings and changes for machines."""
    return {
        "preflight": [asdict(each) for each in found],
        "changes": [
            {"action": c.action, "object": str(c.ref), "diff": list(c.lines)} for c in changes
        ],
    }


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line that says what is waited for: rewritten in a terminal, else one for each change."""
    if not errors.is_terminal:
        last = [""]

        def say(text: str) -> None:
            if text != last[0]:
                errors.print(escape(text), soft_wrap=True)
            last[0] = text

        yield say
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda text: bar.update(task, description=escape(text))


def status(found: Status) -> Group:
    """One release as people read it."""
    colour = "green" if found.state == "ready" else "red" if found.state.isupper() else "yellow"
    head = f"[bold]{escape(found.release)}[/bold] is [{colour}]{found.state}[/{colour}]"
    groups = Table("pods", "ready", "least", "most")
    for each in found.groups:
        bounds = ("" if n is None else str(n) for n in (each.least, each.most))
        groups.add_row(escape(each.name), f"{each.ready}/{each.pods}", *bounds)
    served = Table("application", "deployment", "status", "replicas", "requests")
    for app in found.applications:
        served.add_row(escape(app.name), "", app.status)
        for one in app.deployments:
            counts = ("?" if n is None else str(n) for n in one.replicas or ())
            requests = "" if one.requests is None else f"{one.requests:g}"
            served.add_row("", escape(one.name), one.status, "/".join(counts), requests)
    lines = [f"[red]{escape(str(each))}[/red]" for each in found.troubles]
    lines += [f"[yellow]{escape(each)}[/yellow]" for each in found.notes]
    return Group(head, groups, served, escape(money(found.costs)), *lines)


def nodes(costs: Costs) -> Group:
    """Each node that the release runs on, and its price."""
    table = Table("node", "price table row", "$/hour", "read")
    for each in costs.nodes:
        price = "missing" if each.usd_per_hour is None else f"{each.usd_per_hour:.4f}"
        table.add_row(escape(each.name), escape(each.row), price, str(each.as_of or ""))
    return Group(table, escape(money(costs)))


def money(costs: Costs) -> str:
    """GPUs and dollars in a line; what has no price is named, not guessed."""
    held = ", ".join(f"{n:g} {kind}" for kind, n in sorted(costs.gpus.items())) or "none"
    each = costs.usd_per_gpu_second
    second = "" if each is None else f" · ${each:.6f} per GPU-second"
    hour = f"${costs.usd_per_hour:.2f} per hour"
    lacks = [f"the price table lacks {', '.join(costs.missing)}"] if costs.missing else []
    lacks += [UNLABELLED.format(name) for name in costs.unlabelled]
    if lacks:
        hour = f"cost per hour unknown: {'; '.join(lacks)}"
    return f"GPUs: {held} · {hour}{second}"


def status_data(found: Status) -> dict[str, Any]:
    """One release for machines."""
    return {
        "release": found.release,
        "state": found.state,
        "cluster": found.cluster,
        "groups": [asdict(each) for each in found.groups],
        "applications": [asdict(each) for each in found.applications],
        **money_data(found.costs),
        "troubles": [{**asdict(each), "remedy": each.remedy} for each in found.troubles],
        "notes": found.notes,
    }


def money_data(costs: Costs) -> dict[str, Any]:
    """GPUs and dollars for machines; sums are null where a price is missing."""
    return {
        "gpus": dict(costs.gpus),
        "usd_per_hour": None if costs.missing or costs.unlabelled else round(costs.usd_per_hour, 6),
        "usd_per_gpu_second": costs.usd_per_gpu_second,
        "missing_prices": costs.missing,
        "unlabelled_nodes": costs.unlabelled,
        "nodes": [
            {"name": n.name, "price": n.row, "spot": n.spot, "usd_per_hour": n.usd_per_hour}
            for n in costs.nodes
        ],
    }
