"""A knowledge base of any size to measure with: documents of two chunks, and an embedding model
that costs next to nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from serve_app import models
from serve_app.settings import BUNDLED

DIMENSION = 64
_WORDS = 24  # of a section
_FOLDER = 1000  # files in one
_FILE = 50_000  # documents in one JSONL file: some 25 MB
_VOCABULARY = 20_000


def static_model(folder: Path) -> Path:
    """Random vectors of tokens, averaged: a real model to sentence-transformers, which embeds some
    ten thousand texts a second on a core. What is near what means nothing."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer

    path = folder / "static-model"
    if path.exists():
        return path
    tokenizer = Path(models.embedding_models()[BUNDLED]) / "tokenizer.json"
    torch.manual_seed(0)
    module = StaticEmbedding(Tokenizer.from_file(str(tokenizer)), embedding_dim=DIMENSION)
    SentenceTransformer(modules=[module], device="cpu").save(str(path))
    shutil.copy(tokenizer, path / "tokenizer.json")
    return path


def text(number: int, edition: int = 0) -> str:
    """A document's text: two sections, of words that no other document has in that order."""
    draw = random.Random(f"{number}/{edition}")
    first, second = (
        " ".join(f"word{draw.randrange(_VOCABULARY)}" for _ in range(_WORDS)) for _ in range(2)
    )
    return f"# Part one of {number}\n\n{first}\n\n# Part two\n\n{second}\n"


def write_files(folder: Path, count: int) -> None:
    """A Markdown file for each document, a thousand in a folder."""
    for number in range(count):
        path = _path(folder, number)
        if number % _FOLDER == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(number), encoding="utf-8")


def write_jsonl(folder: Path, count: int, changed: frozenset[int] = frozenset()) -> None:
    """Files of 50,000 rows each."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, count, _FILE):
        with (folder / f"part{start // _FILE:05}.jsonl").open("w", encoding="utf-8") as out:
            for number in range(start, min(start + _FILE, count)):
                row = {"id": f"d{number}", "text": text(number, int(number in changed))}
                out.write(json.dumps(row) + "\n")


def change_files(folder: Path, count: int, share: float) -> int:
    """Write that share of the files anew; returns how many."""
    chosen = random.Random(1).sample(range(count), round(count * share))
    for number in chosen:
        _path(folder, number).write_text(text(number, 1), encoding="utf-8")
    return len(chosen)


def age(folder: Path, seconds: float = 60.0) -> None:
    """Let all files have been written so long ago: what was written a moment ago is read again."""
    for path in _all(folder):
        about = os.stat(path)
        os.utime(path, (about.st_atime - seconds, about.st_mtime - seconds))


def _all(folder: Path) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        yield from (os.path.join(root, name) for name in names)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number // _FOLDER:05}" / f"{number:07}.md"
