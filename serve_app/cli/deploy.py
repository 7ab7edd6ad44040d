"""`trivium deploy`, `upgrade`, `rollback` and `status`: Trivium on Kubernetes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live

from serve_app.cli import cluster_show as show
from serve_app.cli.client import Json
from serve_app.cli.cluster_roll import Wishes, roll
from serve_app.cli.console import out
from serve_app.cluster import manifests
from serve_app.cluster import prices as cluster_prices
from serve_app.cluster import stack as cluster_stack
from serve_app.cluster import status as cluster_status
from serve_app.cluster.kube import Kube
from serve_app.cluster.preflight import CHECKS
from serve_app.cluster.revisions import Revisions
from serve_app.errors import NotFound
from serve_app.ledger.prices import PriceTable

_WHERE, _WHAT = "Where", "What"
_POLL_S = 2.0

Namespace = Annotated[str, typer.Option("--namespace", "-n", rich_help_panel=_WHERE)]
Release = Annotated[
    str, typer.Option(help="Name of the release.", rich_help_panel=_WHERE, metavar="NAME")
]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        envvar="KUBECONFIG", help="Default: ~/.kube/config, or the pod's.", rich_help_panel=_WHERE
    ),
]
Context = Annotated[
    str | None, typer.Option(help="Of the kubeconfig; default: its own.", rich_help_panel=_WHERE)
]
Chart = Annotated[str, typer.Option(help="Folder or address of the chart.", rich_help_panel=_WHAT)]
Values = Annotated[
    list[Path] | None,
    typer.Option("--values", "-f", help="Values file; repeat for more.", rich_help_panel=_WHAT),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="One value, key=value; repeat.", rich_help_panel=_WHAT),
]
Manifests = Annotated[
    Path | None,
    typer.Option(
        "--manifests",
        metavar="FILE",
        help="Rendered manifests instead of a chart, needs no helm; - reads standard input.",
        rich_help_panel=_WHAT,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before applying.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Stop after checks and diff.")]
Timeout = Annotated[float, typer.Option(min=1, help="Most seconds to wait until it serves.")]
Force = Annotated[
    bool, typer.Option("--force-conflicts", help="Take fields that other managers own.")
]
GoBack = Annotated[
    bool,
    typer.Option(
        "--rollback-on-failure", "--atomic", help="If it fails, re-apply the last good revision."
    ),
]
NoAsk = Annotated[
    bool,
    typer.Option("--no-ask", help="Believe the RayService; do not wait for each road's answer."),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option("--ignore", help=f"A check that stops nothing: {', '.join(CHECKS)}."),
]
Prices = Annotated[
    Path,
    typer.Option(
        "--prices", envvar="TRIVIUM_LEDGER__PRICES", help="Price table with `nodes` and `gpus`."
    ),
]

_NAME = "trivium"  # of namespace and release
_PRICES = Path("configs/prices.yaml")
UPGRADE = (
    "Bring a release that is there up to date: [bold]trivium deploy[/bold], which refuses to "
    "install.\n\n[bold]Example:[/bold] trivium upgrade -f mine.yaml --rollback-on-failure --yes"
)


def deploy(
    called: typer.Context,
    chart: Chart = "helm/trivium",
    values: Values = None,
    set_: Set = None,
    rendered: Manifests = None,
    namespace: Namespace = _NAME,
    release: Release = _NAME,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    timeout: Timeout = 1800.0,
    force_conflicts: Force = False,
    rollback_on_failure: GoBack = False,
    no_ask: NoAsk = False,
    ignore: Ignore = None,
    as_json: Json = False,
) -> None:
    """Put Trivium on a cluster, or bring the release that is there up to date.

    Checks first (CRDs, operator, GPUs, secrets, storage, quota, rights), each "no" with its remedy;
    then shows what would change, asks, applies server-side and waits until every road answers. What
    keeps it from starting is shown: the event, message or log line that matters. Every deployment
    is a revision that [bold]trivium rollback[/bold] returns to. Exits 1 if it does not serve.

    [bold]Examples:[/bold]

    trivium deploy -f helm/trivium/values-gpu.yaml --dry-run

    trivium deploy -f mine.yaml --set ledger.database=postgresql://trivium@db/trivium --yes

    helm template trivium helm/trivium | trivium deploy --manifests - --yes --json

    trivium upgrade -f mine.yaml --rollback-on-failure --yes
    """
    kube = Kube.connect(kubeconfig, context, namespace)
    if called.info_name == "upgrade" and not Revisions(kube, release).all():
        raise NotFound(
            f"there is no release {release} in namespace {namespace} to upgrade: use trivium deploy"
        )
    objects = (
        manifests.from_file(rendered)
        if rendered
        else manifests.render(chart, release, namespace, values or (), set_ or (), kube.versions())
    )
    wishes = Wishes(
        yes=yes,
        dry_run=dry_run,
        timeout_s=timeout,
        force=force_conflicts,
        go_back=rollback_on_failure,
        ask=not no_ask,
        as_json=as_json,
        ignored=ignore or (),
    )
    roll(kube, release, objects, called.info_name or "deploy", wishes, check=True)


def rollback(
    revision: Annotated[
        int | None, typer.Argument(help="Default: the last good one before the current.")
    ] = None,
    namespace: Namespace = _NAME,
    release: Release = _NAME,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    timeout: Timeout = 1800.0,
    no_ask: NoAsk = False,
    as_json: Json = False,
) -> None:
    """Apply a former revision again, as a new one; fields that others took are taken back.

    [bold]Example:[/bold] trivium rollback --yes
    """
    kube = Kube.connect(kubeconfig, context, namespace)
    former = Revisions(kube, release).before(revision)
    wishes = Wishes(
        yes=yes,
        dry_run=dry_run,
        timeout_s=timeout,
        force=True,
        go_back=False,
        ask=not no_ask,
        as_json=as_json,
    )
    roll(kube, release, former.objects, f"rollback to {former.number}", wishes, check=False)


def status(
    namespace: Namespace = _NAME,
    release: Release = _NAME,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again every two seconds, until Ctrl-C.")
    ] = False,
    prices: Prices = _PRICES,
    as_json: Json = False,
) -> None:
    """Replicas, queues, GPUs and dollars per hour of a release; and what is wrong with it.

    Exits 1 if it is not ready.

    [bold]Example:[/bold] trivium status --namespace trivium --watch
    """
    kube, table = Kube.connect(kubeconfig, context, namespace), PriceTable.load(prices)
    found = cluster_status.read(kube, release, table)
    if as_json:
        print(json.dumps(show.status_data(found)))
    elif not watch:
        out.print(show.status(found))
    else:
        with Live(show.status(found), console=out, auto_refresh=False) as live:
            while True:
                time.sleep(_POLL_S)
                live.update(show.status(cluster_status.read(kube, release, table)), refresh=True)
    if found.state != "ready":
        raise typer.Exit(1)


def machines(
    namespace: Namespace = _NAME,
    release: Release = _NAME,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    prices: Prices = _PRICES,
    write: Annotated[
        bool, typer.Option("--write", help="Keep it where running gateways look for it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What a GPU-second of a release costs now: its nodes' labels, looked up in the price table.

    With [bold]--write[/bold] it becomes the price of the expert's tokens: gateways take it from the
    ConfigMap within two minutes. Made for a CronJob. A node without a price is named, not guessed.

    [bold]Example:[/bold] trivium cost machines --namespace trivium --write
    """
    kube, table = Kube.connect(kubeconfig, context, namespace), PriceTable.load(prices)
    service = cluster_stack.service(kube, release)
    pods = cluster_stack.pods(kube, release, cluster_stack.clusters(service))
    found = cluster_prices.costs(kube, pods, table)
    expert = cluster_stack.expert(service)
    written = None
    if write:
        price = cluster_prices.replica(expert, found)
        written = cluster_prices.write(kube, service, expert.model, price)
    if as_json:
        print(json.dumps({**show.money_data(found), "written": written and str(written)}))
        return
    out.print(show.nodes(found))
    if written:
        out.print(f"{expert.model} is priced by {written}")
