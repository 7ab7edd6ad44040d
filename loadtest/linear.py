"""Does every text function of a request take time in proportion to its text?

Each gets texts that are made to be slow, of sizes that double; what is compared is CPU time of one
size with that of the next, so that neither the machine nor its load matters. The exit status is 1
if one grows faster than its text.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table

from serve_app import models
from serve_app.domain import Chunk, Document, Generation, Message, Route
from serve_app.frontier.masking import Masker, Restored
from serve_app.orchestration import evidence, quoting, timespans
from serve_app.orchestration.drafting import Drafting
from serve_app.orchestration.messages import told
from serve_app.orchestration.roles.claims import Claim
from serve_app.orchestration.roles.reflecting import Finding, found_by_rule
from serve_app.pins import Pin, carried, find
from serve_app.retrieval import formats, index
from serve_app.retrieval.embedder import Tokens
from serve_app.search_text import normalised, searchable
from serve_app.settings import MaskSettings

SIZES = (16_000, 32_000, 64_000, 128_000)
_TRIES = 2
_FAR_TOO_LONG_S = 10.0
_LEAST_S = 1e-4  # below it the clock and the caches are measured
# Of three doublings: 8 is linear, 64 is quadratic.
MOST_GROWTH = 20.0

TEXTS: dict[str, Callable[[int], str]] = {
    "backslashes": lambda n: "\\" * (n // 2) + "\\n" * (n // 4),
    "addresses": lambda n: " ".join(f"u{i}@example.com" for i in range(n // 18)),
    "dots after an at": lambda n: "a@b" + ".b" * (n // 2),
    "ats": lambda n: "a@" * (n // 2),
    "keys that do not end": lambda n: "-----BEGIN PRIVATE KEY-----" * (n // 27),
    "tokens that do not end": lambda n: "eyJaaaaaaaaaaaa." * (n // 16),
    "accounts": lambda n: "NO93 8601 1117 948 " * (n // 19),
    "letters and digits": lambda n: "AB12 " * (n // 5),
    "single digits": lambda n: "1 " * (n // 2),
    "cards": lambda n: "4111 1111 1111 1112 " * (n // 20),
    "phones": lambda n: "".join(f"+47 22 {i % 10**6:06d}," for i in range(n // 14)),
    "slashes": lambda n: "+1/2/3/" * (n // 7),
    "dates": lambda n: "+2012-01-02 08:00 " * (n // 18),
    "placeholders": lambda n: "<EMAIL_1>" * (n // 9),
    "brackets": lambda n: "<" * n,
    "escapes": lambda n: "\\u0042%41&#66;&amp;" * (n // 19),
    "nested escapes": lambda n: "\\\\" * (n // 2),
    "invisible": lambda n: "a\u200b\u00ad" * (n // 3),
    "combining": lambda n: "a" + "\u0301\u0323" * (n // 2),
    "ligatures": lambda n: "\ufdfa" * n,
    "prose": lambda n: "The quick brown fox jumps over it. " * (n // 35),
}
# What is written to be split, and read for evidence.
WRITTEN: dict[str, Callable[[int], str]] = {
    "a heading of blanks": lambda n: "# a" + " " * n + "b",
    "a heading without words": lambda n: "#" + " " * n,
    "headings": lambda n: "# a\n## b\n" * (n // 9),
    "a heading too long": lambda n: "# " + "a " * (n // 2),
    "hashes": lambda n: "#" * n,
    "a word": lambda n: "a" * n,
    "a word of signs": lambda n: "a,." * (n // 3),
    "a line of words": lambda n: "word " * (n // 5),
    "sentences": lambda n: "A b. " * (n // 5),
    "marks of sources": lambda n: "A b. [1] " * (n // 9),
    "marks of sources that do not end": lambda n: "[1, " * (n // 4),
    "a mark behind blanks": lambda n: "a" + " " * n + "[1]",
    "short lines": lambda n: "a\n" * (n // 2),
    "blank lines": lambda n: "a\n\n" * (n // 3),
    "lines of blanks": lambda n: "a\n" + (" " * 50 + "\n") * (n // 51),
    "fences": lambda n: "```\n" * (n // 4),
    "fences that do not end": lambda n: "````\n```\n" * (n // 9),
    "a table": lambda n: "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * (n // 10),
    "a table of empty rows": lambda n: "|a" * 50 + "|\n" + "|-" * 50 + "|\n" + "|\n" * (n // 2),
    "bars": lambda n: "a | b " * (n // 6),
    "quotes": lambda n: "> " * (n // 2),
    "quotes of quotes": lambda n: ">> a\n> b\nc\n" * (n // 11),
    "lists": lambda n: "- " * (n // 2),
    "lists of lists": lambda n: "".join(" " * (i % 40) + "- a\n" for i in range(n // 24)),
    "definitions": lambda n: "[a]: b\n" * (n // 7),
    "brackets of a link": lambda n: "[" * n,
    "tags": lambda n: "<a " * (n // 3),
    "comments": lambda n: "<!--\n" * (n // 5),
    "underlines": lambda n: "a\n-\n" * (n // 4),
    "stops and blanks": lambda n: ". " + " " * n,
    "Chinese": lambda n: "第一条规定：帐篷与睡袋。" * (n // 12),
    "Thai": lambda n: "เต็นท์และถุงนอน" * (n // 15),
    "marks": lambda n: "a" + "\u0301\u0323" * (n // 2),
    "ligatures": lambda n: "\ufdfa \ufb01 " * (n // 4),
    "soft hyphens": lambda n: "a\u00ad\u200b" * (n // 3),
    "figures": lambda n: '{"a": 1.5, "b": "c 2"}' * (n // 23),
    "quoted": lambda n: '"a\\"' * (n // 4),
    "times": lambda n: "from the last 2 " * (n // 16),
}
_MASKER = Masker.of(MaskSettings(patterns={"ORDER": r"\bHR-\d{6}\b"}, phone_region=None))
_PIN = Pin(name="pin", never=frozenset({Route.FRONTIER}), matches=r"\b(project )?bluebird\b")


def mask(text: str) -> None:
    """As it leaves."""
    _MASKER.begin([text]).mask(text)


def restore(text: str) -> None:
    """As an answer comes back, a few characters at a time."""
    masks = _MASKER.begin([])
    restored = Restored(masks, masks.mask(text[: len(text) // 4]).__add__)
    for start in range(0, len(text), 8):
        restored.piece(text[start : start + 8])


def pin(text: str) -> None:
    """As it is checked at the door."""
    generation = Generation((Message("user", text),), 1, {"stop": [text]})
    find([_PIN], carried(generation))


def sources(text: str) -> None:
    """As evidence is put into a prompt."""
    parts = [text[start : start + 1000] for start in range(0, len(text), 1000)]
    told([Chunk(f"{i}", "d", "t", "", part, None) for i, part in enumerate(parts)])


@cache
def _tokens() -> Tokens:
    (path,) = models.embedding_models().values()
    return Tokens(path)


def _chunks(text: str) -> list[Chunk]:
    parts = [text[start : start + 1000] for start in range(0, len(text), 1000)]
    return [Chunk(f"{i}", "d", "Title", "Heading", part, None) for i, part in enumerate(parts)]


_FACTS = _chunks("The limit of region 2 is 1.5 EUR. Word by word. " * 100)


def chunk(text: str) -> None:
    """As a document is split."""
    count = _tokens()
    index.rows(Document("d", "t", f"x\n{text}"), "t", max_tokens=160, count=count, window=254)


def search(text: str) -> None:
    """As a query is searched for."""
    searchable(normalised(text), 10**9)


def page(text: str) -> None:
    """As HTML is read."""
    formats.read("a.html", f"<p>x</p>{text}".encode())


def time_span(text: str) -> None:
    """As the time that a question is about is found; it looks at no long text."""
    timespans.find(text[: len(text) // 16], datetime.now(UTC), ZoneInfo("Europe/Oslo"))


def verify(text: str) -> None:
    """As a draft is held against its evidence."""
    asyncio.run(_drafted(text, _FACTS))


def verify_by_much(text: str) -> None:
    """As a draft is held against much evidence."""
    asyncio.run(_drafted("The limit is 1.5 EUR [1]. It is not word by word. " * 20, _chunks(text)))


async def _drafted(text: str, chunks: Sequence[Chunk]) -> None:
    sources = evidence.Sources(chunks)

    async def check(claims: Sequence[Claim]) -> Sequence[Finding]:
        return found_by_rule(claims, sources)

    async with Drafting(check, len(chunks), None) as drafting:
        drafting.take(text)
        await drafting.close()


def verify_json(text: str) -> None:
    """As a draft in JSON is held against its evidence."""
    evidence.of_json(text, _FACTS)


def quote(text: str) -> None:
    """As evidence is cut into what can be quoted."""
    quoting.statements("What is the limit?", _chunks(text), 1)


FUNCTIONS = (mask, restore, pin, sources)
READERS = (chunk, search, page, time_span, verify, verify_by_much, verify_json, quote)


def cpu_s(function: Callable[[str], None], text: str) -> float:
    """The least that it takes of several tries."""
    taken = []
    for _ in range(_TRIES):
        began = time.thread_time()
        function(text)
        taken.append(time.thread_time() - began)
    return min(taken)


def measured(
    function: Callable[[str], None], text: Callable[[int], str], sizes: Sequence[int] = SIZES
) -> list[float]:
    """Seconds of each size; it ends with the first that takes far too long."""
    seconds: list[float] = []
    for size in sizes:
        seconds.append(cpu_s(function, text(size)))
        if seconds[-1] > _FAR_TOO_LONG_S:
            break
    return seconds


def growth(seconds: list[float]) -> float:
    """How many times longer the longest text took than the shortest; endless if not done."""
    if seconds[-1] > _FAR_TOO_LONG_S:
        return math.inf
    return seconds[-1] / max(seconds[0], _LEAST_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows, worst = [], 0.0
    texts = TEXTS | WRITTEN
    pairs = [(f, TEXTS) for f in FUNCTIONS] + [(f, texts) for f in READERS]
    for function, written in pairs:
        for name, text in written.items():
            seconds = measured(function, text)
            ratios = [b / max(a, _LEAST_S) for a, b in itertools.pairwise(seconds)]
            grown = growth(seconds)
            worst = max(worst, grown)
            rows.append(
                {
                    "function": function.__name__,
                    "text": name,
                    "ratios": [round(each, 2) for each in ratios],
                    "growth": round(grown, 1),
                    "ms_of_largest": round(1000 * seconds[-1], 1),
                }
            )
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        _show(rows)
    if worst > MOST_GROWTH:
        sys.exit(f"grows {worst:.0f} times where its text grows 8 times")


def _show(rows: list[dict[str, object]]) -> None:
    table = Table(title=f"CPU time, by characters: {', '.join(f'{size:,}' for size in SIZES)}")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
