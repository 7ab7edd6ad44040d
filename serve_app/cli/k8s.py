"""`trivium k8s …`: Trivium on Kubernetes, installed by Helm, looked at before and after."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live

from serve_app.cli import k8s_release as releases
from serve_app.cli import k8s_show as show
from serve_app.cli.client import Json
from serve_app.cli.console import out
from serve_app.cli.k8s_release import Wishes
from serve_app.cluster import prices as cluster_prices
from serve_app.cluster import stack as cluster_stack
from serve_app.cluster import status as cluster_status
from serve_app.cluster.findings import Plan
from serve_app.cluster.helm import Helm, Source
from serve_app.cluster.kube import Kube
from serve_app.cluster.preflight import CHECKS
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
Chart = Annotated[
    str, typer.Option(help="Folder, archive or oci:// address.", rich_help_panel=_WHAT)
]
Version = Annotated[
    str | None,
    typer.Option("--version", help="Of a chart with an address.", rich_help_panel=_WHAT),
]
Values = Annotated[
    list[Path] | None,
    typer.Option("--values", "-f", help="Values file; repeat for more.", rich_help_panel=_WHAT),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="One value, key=value; repeat.", rich_help_panel=_WHAT),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before applying.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Stop after checks and diff.")]
Timeout = Annotated[float, typer.Option(min=1, help="Most seconds to wait until it serves.")]
Force = Annotated[
    bool, typer.Option("--force-conflicts", help="Take fields that others own (Helm 4).")
]
GoBack = Annotated[
    bool,
    typer.Option(
        "--rollback-on-failure", "--atomic", help="If it fails, go back to the last good revision."
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
_UPGRADE = (
    "Bring a release that is there up to date: [bold]trivium k8s install[/bold], which refuses "
    "where there is none.\n\n[bold]Example:[/bold] trivium k8s upgrade -f mine.yaml "
    "--rollback-on-failure --yes"
)

k8s = typer.Typer(
    help="Trivium on Kubernetes: checks before, Helm, and what runs.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@k8s.command()
def preflight(
    chart: Chart = "helm/trivium",
    version: Version = None,
    values: Values = None,
    set_: Set = None,
    namespace: Namespace = _NAME,
    release: Release = _NAME,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    force_conflicts: Force = False,
    ignore: Ignore = None,
    as_json: Json = False,
) -> None:
    """May it be installed here? Each "no" comes with its remedy; nothing is changed.

    Settings by their own models, CRDs, operator, GPUs, secrets, storage, quota, rights, and what
    the API server says to a dry run of every object and pod. Exits 1 if something stands in the
    way.

    [bold]Example:[/bold] trivium k8s preflight -f helm/trivium/values-gpu.yaml
    """
    kube = Kube.connect(kubeconfig, context, namespace)
    helm = Helm(release, namespace, kubeconfig, context)
    text = helm.render(Source(chart, version, values or (), set_ or ()), kube.versions())
    wanted = releases.objects(kube, text, chart)
    found = releases.checked(
        Plan(kube, release, wanted, helm.takes(force_conflicts)), ignore or (), as_json
    )
    if as_json:
        print(json.dumps({"state": "ok", **show.as_data(found, [])}))
    else:
        out.print(f"[green]nothing stands in the way[/green] ({len(found)} findings)")


@k8s.command("upgrade", help=_UPGRADE)
@k8s.command()
def install(
    called: typer.Context,
    chart: Chart = "helm/trivium",
    version: Version = None,
    values: Values = None,
    set_: Set = None,
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
    """Install a release by Helm, or bring the one that is there up to date.

    The preflight first; then what would change is shown, you are asked, Helm installs, and every
    road has to answer. What keeps it from starting is said: the event, message or log line that
    matters; Helm is stopped where waiting does not help. Exits 1 if it does not serve.

    [bold]Examples:[/bold]

    trivium k8s install -f helm/trivium/values-gpu.yaml --dry-run

    trivium k8s install -f mine.yaml --set ledger.database=postgresql://trivium@db/trivium --yes
    """
    kube = Kube.connect(kubeconfig, context, namespace)
    helm = Helm(release, namespace, kubeconfig, context)
    source = Source(chart, version, values or (), set_ or ())
    fresh = called.info_name == "install"
    if not fresh:
        helm.require()
    wanted = releases.objects(kube, helm.render(source, kube.versions()), chart)
    found = releases.checked(
        Plan(kube, release, wanted, helm.takes(force_conflicts)), ignore or (), as_json
    )
    wishes = Wishes(yes, dry_run, timeout, rollback_on_failure, not no_ask, as_json)
    releases.change(
        kube,
        helm,
        wanted,
        lambda: helm.upgrade(source, timeout, fresh, force_conflicts, rollback_on_failure),
        wishes,
        found,
    )


@k8s.command()
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
    """Go back to a former revision, by Helm; fields that others took are taken back.

    [bold]Example:[/bold] trivium k8s rollback --yes
    """
    kube = Kube.connect(kubeconfig, context, namespace)
    helm = Helm(release, namespace, kubeconfig, context)
    former = helm.before(revision).number
    wanted = releases.objects(kube, helm.manifest(former), f"revision {former}")
    wishes = Wishes(yes, dry_run, timeout, False, not no_ask, as_json)
    releases.change(kube, helm, wanted, lambda: helm.rollback(former, timeout), wishes)


@k8s.command()
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

    Ready means that its applications serve what was asked for, not only that pods are. Exits 1 if
    it is not ready.

    [bold]Example:[/bold] trivium k8s status --namespace trivium --watch
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
    written = None
    if write:
        expert = cluster_stack.expert(kube, service)
        price = cluster_prices.replica(expert, found)
        written = cluster_prices.write(kube, service, expert.model, price)
    if as_json:
        print(json.dumps({**show.money_data(found), "written": written and str(written)}))
        return
    out.print(show.nodes(found))
    if written:
        out.print(f"{expert.model} is priced by {written}")
