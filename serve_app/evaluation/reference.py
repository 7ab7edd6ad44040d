"""BM25 by the package `bm25s`, which others are measured by too: is ours as good?"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from serve_app.domain import Chunk, Document

# A query's text to ids of documents, best first, each once, and the milliseconds it took.
Way = Callable[[str], Awaitable[tuple[list[str], float]]]


def ways(documents: Sequence[Document], chunks: Sequence[Chunk], depth: int) -> dict[str, Way]:
    """BM25 over whole documents, and over the very texts that our own BM25 reads.

    Args:
        depth: Most documents of a ranking.

    Returns:
        Ways by name; none when the package is not installed.
    """
    try:
        import bm25s  # noqa: F401
    except ImportError:
        return {}
    whole = [(each.id, f"{each.title}\n{each.text}") for each in documents]
    return {
        "bm25s (reference)": _bm25(whole, depth),
        "bm25s, same chunks": _bm25([(each.document_id, each.text) for each in chunks], depth),
    }


def _bm25(texts: Sequence[tuple[str, str]], depth: int) -> Way:
    """BM25 with the package's own tokens and constants over pairs of document id and text."""
    import bm25s

    def words(of: Sequence[str]) -> list[list[str]]:
        tokens: list[list[str]] = bm25s.tokenize(
            list(of), stopwords="en", return_ids=False, show_progress=False
        )
        return tokens

    corpus = words([text for _, text in texts])
    # The package fails on a corpus, or a query, that has stop words only.
    scorer = bm25s.BM25() if any(corpus) else None
    if scorer:
        scorer.index(corpus, show_progress=False)

    async def search(text: str) -> tuple[list[str], float]:
        started = time.perf_counter()
        (asked,) = words([text])
        found: list[str] = []
        if scorer and asked:
            scores = scorer.get_scores(asked)
            order = np.argsort(-scores, kind="stable")
            found = [texts[place][0] for place in order if scores[place] > 0]
        ranking = list(dict.fromkeys(found))[:depth]
        return ranking, (time.perf_counter() - started) * 1000

    return search
