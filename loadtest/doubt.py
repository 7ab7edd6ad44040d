"""Does the expert's model know when it is wrong? Its doubt beside other signs, by AUC.

    python -m loadtest.doubt --data ../shared/data --rows 300

The base model of the settings answers questions whose answer is known: with the passage that
states it, and from memory alone. Doubt is the mean log-probability of its first tokens, with the
sign turned. AUC is the chance that a wrong answer is doubted more than a right one; one half is
chance. Beside it: the complexity that the router foresees, and the prompt's length.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import re
import string
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.metrics import roc_auc_score

from loadtest import servers
from serve_app import models
from serve_app.router.coverage import Coverage
from serve_app.router.encoder import Encoder
from serve_app.router.heads import SHIPPED, Heads
from serve_app.router.semantic import SemanticRouter
from serve_app.router.turns import Turns
from serve_app.settings import Settings, load

PASSAGE = ("squad2", "squadshifts_new_wiki", "squadshifts_reddit")
MEMORY = ("qed_nq", "squad2")
FIRST = (1, 4, 8, 16)  # tokens that doubt is read from
_TOKENS = 32
_AT_ONCE = 8
_TIMEOUT_S = 120.0
_PORT = 8131


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as the model gets it, and the answers that are right."""

    prompt: str
    question: str
    answers: Sequence[str]


@dataclass(frozen=True, slots=True)
class Answered:
    """What the model said, and the log-probability of each token of it."""

    asked: Asked
    text: str
    logprobs: Sequence[float]

    @property
    def right(self) -> bool:
        """Whether it says one of the right answers."""
        said = _plain(self.text)
        return any(f" {_plain(each)} " in f" {said} " for each in self.asked.answers)


def questions(folder: Path, name: str, *, passage: bool, most: int) -> list[Asked]:
    """Answerable questions of a set, the same for the same set."""
    with gzip.open(
        folder / "rag/answering" / name / "dev.jsonl.gz", "rt", encoding="utf-8"
    ) as file:
        found = [json.loads(line) for line in file]
    found = [row for row in found if row["answerable"] and row["answers"]]
    random.Random(name).shuffle(found)
    return [_asked(row, passage=passage) for row in found[:most]]


def _asked(row: dict[str, Any], *, passage: bool) -> Asked:
    question, stated = row["question"], ""
    if passage:
        support = set(row["support"])
        stated = "\n".join(p["text"] for p in row["passages"] if p["id"] in support) + "\n\n"
    return Asked(f"{stated}{question}\nAnswer in a few words.", question, row["answers"])


def _plain(text: str) -> str:
    """As SQuAD compares answers: lower case, no articles, no punctuation."""
    bare = "".join(" " if each in string.punctuation else each for each in text.lower())
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


async def answer(client: httpx.AsyncClient, asked: Asked) -> Answered:
    """Ask vLLM's own server."""
    body = {
        "model": "alone",
        "messages": [{"role": "user", "content": asked.prompt}],
        "max_tokens": _TOKENS,
        "temperature": 0,
        "logprobs": True,
    }
    reply = await client.post("/v1/chat/completions", json=body)
    reply.raise_for_status()
    choice = reply.json()["choices"][0]
    logprobs = [each["logprob"] for each in choice["logprobs"]["content"]]
    return Answered(asked, choice["message"]["content"] or "", logprobs)


async def answers(url: str, asked: Iterable[Asked]) -> list[Answered]:
    """Of each question, a few at once."""
    gate = asyncio.Semaphore(_AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S) as client:

        async def one(each: Asked) -> Answered:
            async with gate:
                return await answer(client, each)

        waiting = [asyncio.create_task(one(each)) for each in asked]
        return [await each for each in track(waiting, console=Console(stderr=True))]


def signs(answered: Sequence[Answered], router: SemanticRouter) -> dict[str, list[float]]:
    """What may tell that an answer is wrong; more of it, more likely wrong."""
    foreseen = router.decide([Turns(each.asked.prompt) for each in answered], [""] * len(answered))
    return {
        **{
            f"doubt, {n} token{'s' if n > 1 else ''}": [
                -float(np.mean(each.logprobs[:n])) for each in answered
            ]
            for n in FIRST
        },
        "doubt, all tokens": [-float(np.mean(each.logprobs)) for each in answered],
        "complexity": [each.complexity for each in foreseen],
        "prompt length": [float(len(each.asked.prompt)) for each in answered],
    }


def _interval(wrong: Sequence[bool], sign: Sequence[float]) -> str:
    """AUC, and where 95 of 100 resamplings have it."""
    drawn, given, draw = np.array(wrong), np.array(sign), np.random.default_rng(0)
    found: list[float] = []
    while len(found) < 500:
        rows = draw.integers(0, len(drawn), len(drawn))
        if 0 < drawn[rows].sum() < len(rows):
            found.append(roc_auc_score(drawn[rows], given[rows]))
    low, high = np.percentile(found, [2.5, 97.5])
    return f"{roc_auc_score(drawn, given):.2f} ({low:.2f}–{high:.2f})"


def _router(settings: Settings) -> SemanticRouter:
    encoder = Encoder(
        models.router_encoder(settings), max_tokens=settings.router.max_tokens, threads=1
    )
    return SemanticRouter.of(settings, encoder, Heads.load(SHIPPED), Coverage.load())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--config", "-c", type=Path, default=Path("configs/local.yaml"))
    parser.add_argument("--rows", type=int, default=300, help="of each set")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args()
    settings = load(options.config).resolved(Path.cwd())
    router = _router(settings)
    found: dict[str, dict[str, str]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="trivium-doubt-") as folder,
        servers.vllm(settings, _PORT, Path(folder) / "vllm.log") as url,
    ):
        for name, passage in [(n, True) for n in PASSAGE] + [(n, False) for n in MEMORY]:
            asked = questions(options.data, name, passage=passage, most=options.rows)
            said = asyncio.run(answers(url, asked))
            wrong = [not each.right for each in said]
            if len(set(wrong)) < 2:
                sys.exit(f"{name}: all answers are {'wrong' if wrong[0] else 'right'}")
            told = {sign: _interval(wrong, by) for sign, by in signs(said, router).items()}
            share = f"{1 - sum(wrong) / len(wrong):.2f} of {len(wrong)}"
            kind = "its passage" if passage else "memory"
            found[f"{name}, {kind}"] = {"right": share, **told}
    if options.json:
        print(json.dumps(found))
        return
    table = Table("", *found)
    for sign in next(iter(found.values())):
        table.add_row(sign, *(each[sign] for each in found.values()))
    Console(width=max(140, Console().width)).print(table)


if __name__ == "__main__":
    main()
