"""Makes the model of whether a knowledge base speaks of a question, and measures it on bases that
it has not seen.

    python -m tools.coverage --data ../shared/data

Bases are the passages of `rag/answering`; the questions of the same rows are covered by them, and
timeless questions about anything (EverGreenQA) and those of the other bases are not. Each question
is read twice, once with typing errors. Each base is left out once: the figures printed are those of
the model that was fitted without it, with typing errors behind them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from serve_app.models import prepare, router_encoder
from serve_app.router.coverage import AXES, SHIPPED, USUAL, Background, Coverage, nearest
from serve_app.router.encoder import Encoder, Floats
from serve_app.router.noise import mistyped
from serve_app.settings import Settings
from serve_app.sketches import Sketch, VectorModel, words

# Those whose licence lets what is learned from them be shipped.
BASES = ("squadshifts_new_wiki", "policyqa", "pubmedqa", "tatqa")
_QUESTIONS = 300  # of each base, with all passages of their rows
_OTHERS = 100  # of the questions of each other base
_KEPT = 256  # questions about anything
_COMMON = 4  # questions that a word must have to be listed
_TEXTS = 256
_TENTH = 10  # of the passages, for the axes

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Base:
    """A knowledge base and questions that it speaks of."""

    sketch: Sketch
    questions: list[str]
    vectors: Floats


def encoded(model: Coverage, encoder: Encoder, texts: Sequence[str]) -> Floats:
    parts = range(0, len(texts), _TEXTS)
    return np.concatenate([model.vectors(encoder.encode(texts[at : at + _TEXTS])) for at in parts])


def read_rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows = [row for row in rows if row["answerable"] and row.get("kind") != "gold-passage-removed"]
    random.Random(1).shuffle(rows)  # noqa: S311  # the same every time
    return rows[:_QUESTIONS]


def read_base(model: Coverage, encoder: Encoder, rows: Sequence[dict[str, Any]]) -> Base:
    documents: dict[str, str] = {}
    for row in rows:
        for each in row["passages"]:
            text = f"{each['title']}\n{each['text']}"
            documents[text[:200]] = text
    parts = ((name, [text]) for name, text in documents.items())
    vectors = VectorModel(model.version, lambda texts: encoded(model, encoder, texts))
    sketch = Sketch.empty().with_texts(parts, vectors)
    questions = [row["question"] for row in rows]
    return Base(sketch, questions, encoded(model, encoder, questions))


def axes(encoder: Encoder, texts: Sequence[str]) -> Floats:
    """Shape (WIDTH, AXES): along which texts differ most, by a singular value decomposition."""
    parts = range(0, len(texts), _TEXTS)
    last = [encoder.encode(texts[at : at + _TEXTS]).layers[:, -1] for at in parts]
    rotated = np.linalg.svd(np.concatenate(last), full_matrices=False)[2]
    return np.ascontiguousarray(rotated[:AXES].T, dtype=np.float32)


def unfitted(encoder: Encoder, questions: Sequence[str], along: Floats) -> Coverage:
    """A model without weights: what questions about anything are like."""
    none = Background(np.zeros((0, AXES), np.float32), [], np.zeros(0, np.float32))
    nothing = np.zeros(0, np.uint32)
    empty = Coverage((0.0,) * 4, along, none, nothing, np.zeros(0, np.float32), 0.0)
    have = Counter(word for text in questions for word in words(text).tolist())
    common = {word: count for word, count in have.items() if count >= _COMMON}
    listed = sorted(common)
    rarities = [math.log(len(questions) / common[word]) for word in listed]
    everything = encoded(empty, encoder, questions)
    centres = KMeans(_KEPT, n_init=1, random_state=0).fit(everything).cluster_centers_
    kept = np.unique((centres @ everything.T).argmax(1))
    vectors = everything[kept]
    # The nearest to each is itself.
    near = [(nearest(vectors, each, USUAL + 1) * (USUAL + 1) - 1.0) / USUAL for each in vectors]
    return replace(
        empty,
        background=Background(
            vectors, [words(questions[i]) for i in kept], np.array(near, np.float32)
        ),
        hashes=np.array(listed, np.uint32),
        rarities=np.array(rarities, np.float32),
        unknown=math.log(len(questions) / 2),
    )


def features(
    model: Coverage, name: str, bases: dict[str, Base], others: Base
) -> tuple[Floats, Labels]:
    """Of a base: questions that it speaks of (1), about anything (0), of other bases (2)."""
    base, rows, kinds = bases[name], [], []
    asked = [(1, base, len(base.questions)), (0, others, len(others.questions))]
    asked += [(2, each, _OTHERS) for other, each in bases.items() if other != name]
    for kind, of, most in asked:
        for text, vector in list(zip(of.questions, of.vectors, strict=True))[:most]:
            near = nearest(model.background.vectors, vector, USUAL)
            rows.append(model.features(base.sketch, words(text), vector, near))
            kinds.append(kind)
    return np.array(rows, np.float32), np.array(kinds)


def fitted(model: Coverage, tables: Sequence[tuple[Floats, Labels]]) -> Coverage:
    """The model with its weights: every base, and both answers of each, count the same."""
    rows = np.concatenate([table for table, _ in tables])
    covered = np.concatenate([kinds == 1 for _, kinds in tables])
    weights = np.concatenate(
        [np.where(k == 1, 1 / sum(k == 1), 1 / sum(k != 1)) for _, k in tables]
    )
    found = LogisticRegression(C=10.0, max_iter=2000)
    found.fit(rows, covered, sample_weight=weights / weights.mean())
    made = [*found.coef_[0], found.intercept_[0]]
    return replace(model, weights=tuple(map(float, made)))


def mistaken(model: Coverage, encoder: Encoder, base: Base) -> Base:
    """The same with typing errors in its questions."""
    noisy = [mistyped(text, random.Random(text)) for text in base.questions]  # noqa: S311
    return replace(base, questions=noisy, vectors=encoded(model, encoder, noisy))


def scores(model: Coverage, sketch: Sketch, table: Floats, kinds: Labels) -> dict[str, float]:
    logits = table @ np.array(model.weights[:-1]) + model.weights[-1] - model.base(sketch, 1).even
    return {
        "auc": float(roc_auc_score(kinds == 1, logits)),
        "covered": float((logits[kinds == 1] > 0).mean()),
        "about anything": float((logits[kinds == 0] > 0).mean()),
        "of other bases": float((logits[kinds == 2] > 0).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public sets")
    parser.add_argument("--output", type=Path, default=SHIPPED)
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args()
    settings = Settings()
    if not router_encoder(settings).is_dir():
        prepare(settings, "router encoder")
    encoder = Encoder(router_encoder(settings), max_tokens=settings.router.max_tokens, threads=2)
    path = options.data / "volatility/evergreenqa_train.jsonl"
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    asked = {
        name: read_rows(options.data / f"rag/answering/{name}/train.jsonl.gz") for name in BASES
    }
    # What questions are like is learned from one half, what is not covered from the other.
    questions = [row["query"] for row in rows[::2]]
    passages = [each["text"] for its in asked.values() for row in its for each in row["passages"]]
    model = unfitted(encoder, questions, axes(encoder, questions + passages[::_TENTH]))
    timeless = [row["query"] for row in rows[1::2] if not row["volatile"]]
    others = Base(Sketch.empty(), timeless, encoded(model, encoder, timeless))
    bases = {name: read_base(model, encoder, its) for name, its in asked.items()}
    noisy = {name: mistaken(model, encoder, base) for name, base in bases.items()}
    noisy_others = mistaken(model, encoder, others)
    tables = {
        name: (features(model, name, bases, others), features(model, name, noisy, noisy_others))
        for name in bases
    }
    found = {}
    for name, both in tables.items():
        rest = [table for other, pair in tables.items() if other != name for table in pair]
        without, sketch = fitted(model, rest), bases[name].sketch
        clean, mistakes = (scores(without, sketch, *table) for table in both)
        found[name] = {
            "texts": sketch.texts,
            **clean,
            **{f"{key}, mistyped": value for key, value in mistakes.items()},
        }
    fitted(model, [table for pair in tables.values() for table in pair]).save(options.output)
    if options.json:
        print(json.dumps(found))
        return
    for name, each in found.items():
        told = ", ".join(f"{key} {value:.3f}" for key, value in each.items())
        sys.stdout.write(f"{name}: {told}\n")


if __name__ == "__main__":
    main()
