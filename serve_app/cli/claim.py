"""`trivium evaluate cost`: what a successful answer costs, beside RAG-only."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.table import Table

from serve_app import jsonl
from serve_app.cli.client import DEFAULT_URL, Json, Key, Url, refused
from serve_app.cli.console import Bars, out
from serve_app.cli.layers import DEFAULT_CONFIG, Config
from serve_app.errors import SettingsError, Unavailable
from serve_app.evaluation.cost import KINDS, Figure, Kind, Pair, Summary, summarise
from serve_app.ledger.prices import PriceTable
from serve_app.settings import load

_AT_ONCE = 4

Ask = Callable[[httpx.AsyncClient, dict[str, Any]], Awaitable[Pair]]


def evaluate_cost(
    recorded: Annotated[
        Path,
        typer.Option(help="Reasoning, JSONL as in RouterBench: query, score{…}, cost_usd{…}."),
    ],
    static: Annotated[
        Path, typer.Option(help="Formats and style, JSONL: messages, the right answer last.")
    ] = Path("configs/demo/house_style/test.jsonl"),
    volatile: Annotated[
        Path, typer.Option(help="Facts, JSONL: query, answers; none: it must say so.")
    ] = Path("configs/demo/questions.jsonl"),
    mix: Annotated[str, typer.Option(help="Shares of static, volatile, reasoning.")] = "80,15,5",
    limit: Annotated[int | None, typer.Option(min=1, help="First so many rows of each.")] = None,
    strong: Annotated[str, typer.Option(help="The recorded frontier model.")] = (
        "gpt-4-1106-preview"
    ),
    weak: Annotated[str, typer.Option(help="The recorded small model.")] = (
        "mistralai/mistral-7b-chat"
    ),
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Replay a workload through the running stack, and price the same on a RAG-only one.

    Static answers must be right to the letter, volatile ones hold the fact; a row may name the
    [bold]model[/bold] that it asks, else the router decides. RAG-only's answers to
    these are priced for each request and taken for right, all of them, to its advantage. Reasoning
    is what models really answered when RouterBench was recorded; the stack's router chooses whose
    answer counts, and RAG-only has the strong model's, with the usual evidence in its prompt.

    [bold]Example:[/bold] trivium evaluate cost --recorded routerbench_mbpp_train.jsonl
    """
    shares = _shares(mix)
    ledger = load(config).resolved(Path.cwd()).ledger
    price = PriceTable.load(ledger.prices).require(ledger.baseline_model)
    evidence = ledger.baseline_context_tokens * price.input / 1e6
    work: list[tuple[Ask, list[dict[str, Any]]]] = [
        (_static, _rows(static, limit, "messages")),
        (_volatile, _rows(volatile, limit, "query", "answers")),
        (_reasoning(strong, weak, evidence), _recorded(recorded, limit, strong, weak)),
    ]
    try:
        pairs = asyncio.run(_asked(work, url, api_key))
    except httpx.HTTPStatusError as error:
        raise refused(error.response) from None
    except httpx.HTTPError as error:
        raise Unavailable(
            f"no answer from {url} ({type(error).__name__}); start it with `trivium up --demo`"
        ) from None
    kinds: dict[str, Summary] = {kind: summarise(pairs, {kind: 1.0}) for kind in KINDS}
    kinds[f"all, {mix}"] = summarise(pairs, shares)
    if as_json:
        print(json.dumps({name: _finite(asdict(each)) for name, each in kinds.items()}))
        return
    out.print(_table(kinds))
    out.print(
        f"RAG-only: {ledger.baseline_model} for each static and volatile question, all taken for "
        f"right; {strong} as recorded for reasoning, {weak} where our router chose the expert"
    )


async def _static(http: httpx.AsyncClient, row: dict[str, Any]) -> Pair:
    *asked, wanted = row["messages"]
    answer = await _chat(http, row, asked)
    good = answer["text"].strip() == wanted["content"].strip()
    return Pair("static", answer["road"], answer["usd"], good, answer["rag_usd"], True)


async def _volatile(http: httpx.AsyncClient, row: dict[str, Any]) -> Pair:
    answer = await _chat(http, row, [{"role": "user", "content": row["query"]}])
    from serve_app.orchestration.knowledge import NOT_FOUND

    said = answer["text"].lower()
    facts = [fact.lower() for fact in row["answers"] or [NOT_FOUND]]
    good = any(fact in said for fact in facts)
    return Pair("volatile", answer["road"], answer["usd"], good, answer["rag_usd"], True)


def _reasoning(strong: str, weak: str, evidence_usd: float) -> Ask:
    async def ask(http: httpx.AsyncClient, row: dict[str, Any]) -> Pair:
        response = await http.post("/v1/route", json={"query": row["query"]})
        response.raise_for_status()
        road = response.json()["route"]
        right, usd = row["score"], row["cost_usd"]
        rag = (usd[strong] + evidence_usd, right[strong] >= 0.5)
        if road == "knowledge":
            # It holds no such facts: it would say so, for nothing.
            return Pair("reasoning", road, 0.0, False, *rag)
        model = strong if road == "frontier" else weak
        return Pair("reasoning", road, usd[model], right[model] >= 0.5, *rag)

    return ask


async def _chat(
    http: httpx.AsyncClient, row: dict[str, Any], messages: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    model = row.get("model", "trivium/auto")
    body = {"model": model, "messages": list(messages), "temperature": 0}
    response = await http.post("/v1/chat/completions", json=body)
    response.raise_for_status()
    usage = response.json()["usage"]
    return {
        "text": response.json()["choices"][0]["message"]["content"],
        "road": response.headers["x-trivium-route"],
        "usd": usage["cost"],
        "rag_usd": usage["cost_details"]["baseline"],
    }


async def _asked(
    work: Sequence[tuple[Ask, list[dict[str, Any]]]], url: str, api_key: str | None
) -> list[Pair]:
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    free = asyncio.Semaphore(_AT_ONCE)
    total = sum(len(rows) for _, rows in work)
    timeout = httpx.Timeout(130, connect=5)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout) as http:
        with Bars() as progress:
            task = progress.add_task("asking", total=total)

            async def one(ask: Ask, row: dict[str, Any]) -> Pair:
                async with free:
                    pair = await ask(http, row)
                progress.advance(task)
                return pair

            return await asyncio.gather(*(one(ask, row) for ask, rows in work for row in rows))


def _rows(path: Path, limit: int | None, *needed: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, row in jsonl.objects(path, "{" + ", ".join(needed) + "}"):
        if missing := [name for name in needed if name not in row]:
            raise SettingsError(f"{path}:{number}: lacks {', '.join(missing)}")
        rows.append(row)
    if not rows:
        raise SettingsError(f"{path} has no rows")
    return rows[:limit]


def _recorded(path: Path, limit: int | None, *models: str) -> list[dict[str, Any]]:
    rows = _rows(path, limit, "query", "score", "cost_usd")
    for row in rows:
        if missing := [name for name in models if name not in row["score"]]:
            known = ", ".join(row["score"])
            raise SettingsError(f"{path}: nothing was recorded of {missing[0]}; of: {known}")
    return rows


def _shares(text: str) -> dict[Kind, float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != len(KINDS) or min(values) < 0 or not 0 < sum(values) < float("inf"):
        raise typer.BadParameter("give three shares, as in 80,15,5", param_hint="--mix")
    return dict(zip(KINDS, values, strict=True))


def _finite(value: Any) -> Any:
    """What has no number, a success where there was none, is null: JSON knows no infinity."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return value if not isinstance(value, float) or math.isfinite(value) else None


def _table(kinds: dict[str, Summary]) -> Table:
    table = Table(
        "workload", "rows", "good", "$ a success", "RAG-only good", "$ a success", "saved"
    )
    for name, each in kinds.items():
        table.add_row(
            name,
            str(each.rows),
            _share(each.good),
            _usd(each.per_good),
            _share(each.rag_good),
            _usd(each.rag_per_good),
            _share(each.saved),
        )
    return table


def _share(figure: Figure) -> str:
    return _shown(figure, "{:.1%}")


def _usd(figure: Figure) -> str:
    return _shown(figure, "{:.6f}")


def _shown(figure: Figure, form: str) -> str:
    """Nothing was good: then there is no such figure."""
    if not math.isfinite(figure.value):
        return "–"
    value, low, high = (form.format(each) for each in (figure.value, figure.low, figure.high))
    return f"{value} ({low} to {high})"
