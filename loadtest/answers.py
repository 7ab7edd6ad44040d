"""How often the knowledge road is right, refuses rightly, and cites what supports it.

    trivium up --demo --detach                                             # quotes by a rule
    TRIVIUM_ORCHESTRATION__ROLES='{"answer": ["expert", "rule"]}' trivium up --demo --detach  # or
    python -m loadtest.answers

100 questions about the demo company, half of them answered nowhere in its handbook, put to a
running stack: by the knowledge road, and by the same model with the retrieval off. An answer is
right when it holds the literal fact; it refuses when it says that the knowledge base does not say.
Citations are held against the document that answers a question and the fact, as a person noted
them, and against the document's text: not against the rule that made them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from serve_app.orchestration.knowledge import NOT_FOUND

QUESTIONS = Path("tests/data/knowledge_questions.jsonl")
ROADS = {"knowledge": "trivium/knowledge", "retrieval off": "trivium/expert"}
AT_ONCE = 4


async def ask(http: httpx.AsyncClient, model: str, row: dict[str, Any]) -> dict[str, Any]:
    """One question: its text, and what each citation says and stands on."""
    body = {"model": model, "messages": [{"role": "user", "content": row["query"]}]}
    started = time.perf_counter()
    response = await http.post("/v1/chat/completions", json={**body, "temperature": 0})
    seconds = time.perf_counter() - started
    response.raise_for_status()
    message = response.json()["choices"][0]["message"]
    text = message["content"]
    cited = []
    for annotation in message.get("annotations") or []:
        citation = annotation["url_citation"]
        document = (await http.get(citation["url"])).json()
        cited.append(
            {
                "document": document["id"],
                "sentence": text[citation["start_index"] : citation["end_index"]],
                "chunks": [each["text"] for each in document["chunks"]],
                "title": document["title"],
            }
        )
    return {
        "row": row,
        "text": text,
        "cited": cited,
        "seconds": seconds,
        "model": response.headers.get("x-trivium-model"),
        "cost": response.json()["usage"]["cost"],
    }


def score(answers: list[dict[str, Any]]) -> dict[str, float]:
    """Shares, each of the questions it applies to."""
    known = [each for each in answers if each["row"]["answerable"]]
    unknown = [each for each in answers if not each["row"]["answerable"]]

    def share(found: list[bool]) -> float:
        return sum(found) / len(found) if found else float("nan")

    cited = [(answer["row"], each) for answer in known for each in answer["cited"]]
    citations = [each for answer in answers for each in answer["cited"]]
    return {
        "right": share([_right(each) for each in known]),
        "refused wrongly": share([_refused(each) for each in known]),
        "right document cited": share(
            [each["row"]["document"] in {c["document"] for c in each["cited"]} for each in known]
        ),
        "right fact in a cited sentence": share([_fact_cited(each) for each in known]),
        "citations of the right document": share(
            [citation["document"] == row["document"] for row, citation in cited]
        ),
        "citations word for word": share([_verbatim(each) for each in citations]),
        "cites where nothing is known": share([bool(each["cited"]) for each in unknown]),
        "refused rightly": share([_refused(each) for each in unknown]),
        "seconds, median": statistics.median(each["seconds"] for each in answers),
        "dollars for a thousand": 1000 * statistics.fmean(each["cost"] for each in answers),
    }


def by(answers: list[dict[str, Any]]) -> str:
    """Who answered."""
    return ", ".join(sorted({each["model"] or "a rule" for each in answers}))


def _right(answer: dict[str, Any]) -> bool:
    text = answer["text"].lower()
    return any(fact.lower() in text for fact in answer["row"]["answers"])


def _refused(answer: dict[str, Any]) -> bool:
    return NOT_FOUND.lower() in answer["text"].lower()


def _fact_cited(answer: dict[str, Any]) -> bool:
    """Whether a sentence that is cited to the right document holds the fact, as that text does."""
    row = answer["row"]
    return any(
        citation["document"] == row["document"]
        and any(fact.lower() in citation["sentence"].lower() for fact in row["answers"])
        and any(fact.lower() in _plain(*citation["chunks"]) for fact in row["answers"])
        for citation in answer["cited"]
    )


def _verbatim(citation: dict[str, Any]) -> bool:
    """Whether the sentence, or what follows its introduction, stands in the document's text."""
    said, text = _plain(citation["sentence"]), _plain(*citation["chunks"])
    introduced = said.partition(": ")[2]
    return said in text or (bool(introduced) and introduced in text)


def _plain(*texts: str) -> str:
    return " ".join(" ".join(texts).lower().split())


async def measure(
    rows: list[dict[str, Any]], url: str, roads: list[str], console: Console
) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    async with httpx.AsyncClient(base_url=url, timeout=180) as http:
        with Progress(console=console, transient=True) as progress:
            for road in roads:
                task = progress.add_task(road, total=len(rows))
                free = asyncio.Semaphore(AT_ONCE)

                async def one(
                    row: dict[str, Any],
                    model: str = ROADS[road],
                    free: asyncio.Semaphore = free,
                    task: Any = task,
                ) -> dict[str, Any]:
                    async with free:
                        answer = await ask(http, model, row)
                        progress.advance(task)
                        return answer

                found[road] = await asyncio.gather(*map(one, rows))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--roads", nargs="+", choices=ROADS, default=list(ROADS))
    parser.add_argument("--output", type=Path, help="write every answer here, JSONL")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args()
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    answers = asyncio.run(measure(rows, options.url, options.roads, Console(stderr=True)))
    if options.output:
        lines = [json.dumps({"road": r, **each}) for r, made in answers.items() for each in made]
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    scores = {road: score(made) for road, made in answers.items()}
    if options.json:
        print(json.dumps(scores))
        return
    table = Table("", *(f"{road}, by {by(made)}" for road, made in answers.items()))
    for name in next(iter(scores.values())):
        table.add_row(name, *(f"{made[name]:.2f}" for made in scores.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
