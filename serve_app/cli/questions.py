"""`trivium ask` and `trivium route`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from serve_app.cli.client import DEFAULT_URL, Client, Json, Key, Url
from serve_app.cli.console import errors, out
from serve_app.cli.layers import offline_router
from serve_app.errors import InvalidRequest
from serve_app.router.rows import read_turns
from serve_app.router.semantic import SemanticRouter

_OURS = "x-trivium-"

Question = Annotated[
    str | None,
    typer.Argument(help="The question; read from standard input when left out."),
]


def ask(
    question: Question = None,
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="trivium/auto, or a road: trivium/expert, …"),
    ] = "trivium/auto",
    max_tokens: Annotated[int | None, typer.Option(help="Bound on the answer's tokens.")] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """Ask a question and watch the answer come in.

    Below the answer: the road it took, what it cost, and the sources it cites.

    [bold]Example:[/bold] trivium ask "What was our revenue in the last 15 minutes?"
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": _text(question)}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if max_tokens is not None:
        body["max_completion_tokens"] = max_tokens
    answer = refusal = ""
    facts: dict[str, str] = {}
    usage: dict[str, Any] = {}
    annotations: list[dict[str, Any]] = []
    with Client(url, api_key) as client:
        for headers, event in client.chat(body):
            facts |= {k.removeprefix(_OURS): v for k, v in headers.items() if k.startswith(_OURS)}
            facts |= event.get("trivium") or {}  # of an answer whose headers could not wait
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                piece = choice["delta"].get("content") or ""
                declined = choice["delta"].get("refusal") or ""
                annotations += choice["delta"].get("annotations") or []
                answer, refusal = answer + piece, refusal + declined
                if not as_json:
                    sys.stdout.write(piece + declined)
                    sys.stdout.flush()
    if as_json:
        told = {"answer": answer, "refusal": refusal or None, **facts}
        print(json.dumps({**told, "usage": usage, "annotations": annotations}))
        return
    sys.stdout.write("\n")
    for number, citation in enumerate(_sources(annotations), start=1):
        as_of = f", as of {citation['as_of']}" if "as_of" in citation else ""
        line = f"  [{number}] {citation['title']}{as_of}  {citation['url']}"
        errors.print(escape(line), style="dim", soft_wrap=True)
    warned = "".join(
        f" · [yellow]{name}: {facts[name]}[/yellow]"
        for name in ("degraded", "adapted")
        if name in facts
    )
    errors.print(
        f"  [dim]{facts['route']} · confidence {facts['confidence']} · routed in "
        f"{facts['router-ms']} ms · {usage['total_tokens']} tokens · "
        f"${usage['cost']:.6f} (RAG-only: ${usage['cost_details']['baseline']:.6f})[/dim]{warned}"
    )


def route(
    question: Question = None,
    as_json: Json = False,
    input_: Annotated[
        Path | None,
        typer.Option(
            "--input",
            "-i",
            help="Decide a whole file, without a cluster: JSONL of id and query, or messages.",
            rich_help_panel="Offline",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where the decisions go.", rich_help_panel="Offline"),
    ] = None,
    heads: Annotated[
        Path | None,
        typer.Option(help="Router heads; default: the settings'.", rich_help_panel="Offline"),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="Router policy; default: the settings'.", rich_help_panel="Offline"),
    ] = None,
    outcomes: Annotated[
        Path | None,
        typer.Option(
            help="What is known of the roads; default: the settings'.", rich_help_panel="Offline"
        ),
    ] = None,
    base: Annotated[
        list[str],
        typer.Option(
            help="Files of the knowledge base; repeat for more. Default: none.",
            rich_help_panel="Offline",
        ),
    ] = [],  # noqa: B006  # Typer copies it
    tenant: Annotated[
        str, typer.Option(help="Whose pins hold.", rich_help_panel="Offline")
    ] = "default",
    config: Annotated[
        Path, typer.Option("--config", "-c", help="Settings file.", rich_help_panel="Offline")
    ] = Path("configs/local.yaml"),
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """Show where a question would go, and why, without answering it.

    [bold]Example:[/bold] trivium route --input questions.jsonl --output decisions.jsonl
    """
    if (input_ is None) != (output is None):
        raise InvalidRequest("give --input and --output together")
    if input_ is not None and output is not None:
        if question is not None:
            raise InvalidRequest("give a question, or --input and --output")
        router = offline_router(config, heads, policy, outcomes, base, tenant)
        decide_file(input_, output, router, tenant)
        return
    with Client(url, api_key) as client:
        made = client.request("POST", "/v1/route", {"query": _text(question)})
    if as_json:
        print(json.dumps(made))
        return
    _show_decision(made)


def _show_decision(made: Mapping[str, Any]) -> None:
    columns = ("road", "score", "P(right)", "worth $", "cost $", "value $")
    table = Table(*columns, title=f"{made['route']}: {made['reason']}", title_justify="left")
    for road, score in sorted(made["scores"].items(), key=lambda item: -item[1]):
        term = made["terms"].get(road, {})
        terms = [f"{v:.3f}" if n == "success" else f"{v:.5f}" for n, v in term.items()]
        table.add_row(road, f"{score:.3f}", *terms, style="bold" * (road == made["route"]))
    out.print(table)
    versions = "".join(f" · {name} {version}" for name, version in made["versions"].items())
    coverage = "unknown" if made["coverage"] is None else f"{made['coverage']:.2f}"
    kinds = " · ".join(f"{name} {share:.2f}" for name, share in made["kinds"].items())
    out.print(kinds)
    out.print(
        f"volatility {made['volatility']:.2f} · complexity {made['complexity']:.2f} · "
        f"coverage {coverage} · "
        f"stage {made['stage']} · {made['latency_ms']:.1f} ms{versions}"
    )


def decide_file(source: Path, target: Path, router: SemanticRouter, tenant: str) -> None:
    """Decide every row of a file; the output appears when it is complete."""
    asked = list(read_turns(source))
    work = target.with_name(f".{target.name}.tmp")
    try:
        with work.open("w", encoding="utf-8") as lines:
            for name, turns in track(asked, "deciding", console=errors, transient=True):
                (made,) = router.decide([turns], [tenant])
                row = {"id": name, **made.record()}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        work.replace(target)
    except OSError as error:
        raise InvalidRequest(f"{target}: cannot be written: {error.strerror}") from None
    finally:
        work.unlink(missing_ok=True)
    errors.print(f"{len(asked)} decisions in {escape(str(target))}")


def _text(question: str | None) -> str:
    text = question if question is not None else sys.stdin.read()
    if not text.strip():
        raise InvalidRequest('nothing was asked; try: trivium ask "What is our return window?"')
    return text


def _sources(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each cited document once, in order."""
    return list({a["url_citation"]["url"]: a["url_citation"] for a in annotations}.values())
