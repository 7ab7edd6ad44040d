"""A sketch of a knowledge base: which words it has, in which of its parts, and what it is about.

Small enough to be held in memory for many tenants, and read in microseconds: it tells whether a
base may speak of a question without a search. Documents fall into 64 blocks by a hash of their
names; of each word the sketch knows in which blocks it stands and in how many texts. Of a sample of
the texts (those of the smallest hashes, a bottom-k sample; Cohen and Kaplan, 2007) it has vectors.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from serve_app.search_text import normalised, parted

BLOCKS = 64
SAMPLES = 256
MOST_WORDS = 1 << 18  # 4 MB; of more, those that stand in one text alone are left out

Hashes = npt.NDArray[np.uint32]
Vectors = npt.NDArray[np.float32]

_FORMAT = "trivium-sketch/2"
_WORD = re.compile(r"[^\W_]+")
_NAMES = ("hashes", "counts", "blocks", "sampled", "vectors")


def words(text: str) -> Hashes:
    """Hashes of the words of a text, each once; pairs of letters where words are not told apart."""
    rest, pairs = parted(normalised(text))
    found = {*_WORD.findall(rest.casefold()), *pairs}
    return np.fromiter((_hash(word) for word in found), np.uint32, len(found))


def _hash(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True)
class VectorModel:
    """What makes the vectors of sketches.

    Attributes:
        version: Vectors of two versions cannot be compared.
        embed: Texts to vectors of length 1; blocking.
    """

    version: str
    embed: Callable[[Sequence[str]], Vectors]


@dataclass(frozen=True, slots=True)
class Sketch:
    """What is known of a base.

    Attributes:
        model: Version of the model that made the vectors.
        texts: How many it was made of.
        hashes: Of its words, ascending.
        counts: In how many texts each stands.
        blocks: In which blocks: a bit for each.
        sampled: Hashes of the texts that there are vectors of, ascending.
        vectors: Shape (samples, width), of length 1.
    """

    model: str
    texts: int
    hashes: Hashes
    counts: Hashes
    blocks: npt.NDArray[np.uint64]
    sampled: Hashes
    vectors: npt.NDArray[np.float16]

    @classmethod
    def empty(cls) -> Self:
        none = np.zeros(0, np.uint32)
        return cls("", 0, none, none, np.zeros(0, np.uint64), none, np.zeros((0, 0), np.float16))

    def with_texts(
        self,
        documents: Iterable[tuple[str, Sequence[str]]],
        model: VectorModel,
        known: Sketch | None = None,
    ) -> Self:
        """The sketch of what it was made of and of more.

        Args:
            documents: Names, and the texts of each.
            model: That of the sketch, if there is anything in it.
            known: Another, whose vectors are taken for texts that it has too.
        """
        found, blocks, texts = [self.hashes], [self.blocks], 0
        counts = [self.counts]
        sample: dict[int, str] = {}
        for name, parts in documents:
            block = np.uint64(1 << (_hash(name) % BLOCKS))
            for part in parts:
                mine = words(part)
                found.append(mine)
                counts.append(np.ones(len(mine), np.uint32))
                blocks.append(np.full(len(mine), block))
                sample[_hash(f"{name}\n{part}")] = part
                texts += 1
        hashes, where = np.unique(np.concatenate(found), return_inverse=True)
        summed = np.zeros(len(hashes), np.uint32)
        np.add.at(summed, where, np.concatenate(counts))
        joined = np.zeros(len(hashes), np.uint64)
        np.bitwise_or.at(joined, where, np.concatenate(blocks))
        kept = slice(None) if len(hashes) <= MOST_WORDS else summed > 1
        made = known.vectors_of(sample) if known and known.model == model.version else {}
        sampled, vectors = self._sampled(sample, made, model)
        return type(self)(
            model.version,
            self.texts + texts,
            hashes[kept],
            summed[kept],
            joined[kept],
            sampled,
            vectors,
        )

    def vectors_of(self, texts: Container[int]) -> dict[int, npt.NDArray[np.float16]]:
        """Those of texts, by their hashes, that it has."""
        pairs = zip(self.sampled.tolist(), self.vectors, strict=True)
        return {number: vector for number, vector in pairs if number in texts}

    def _sampled(
        self,
        new: dict[int, str],
        made: dict[int, npt.NDArray[np.float16]],
        model: VectorModel,
    ) -> tuple[Hashes, npt.NDArray[np.float16]]:
        own = dict(zip(self.sampled.tolist(), self.vectors, strict=True))
        chosen = sorted({*own, *new})[:SAMPLES]
        found = made | own
        if fresh := [number for number in chosen if number not in found]:
            embedded = model.embed([new[number] for number in fresh])
            found |= dict(zip(fresh, embedded.astype(np.float16), strict=True))
        vectors = np.stack([found[number] for number in chosen]) if chosen else self.vectors
        return np.array(chosen, np.uint32), vectors

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return sum(int(getattr(self, name).nbytes) for name in _NAMES)

    def to_bytes(self) -> bytes:
        """For a table or another process."""
        from safetensors.numpy import save

        about = {"format": _FORMAT, "model": self.model, "texts": str(self.texts)}
        return save({name: getattr(self, name) for name in _NAMES}, about)

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """What `to_bytes` wrote.

        Raises:
            ValueError: It is damaged, or of another format.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            read = load(content)
            # The header is JSON behind its length, of eight bytes.
            head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            about = head["__metadata__"]
            if about["format"] != _FORMAT:
                raise ValueError(f"its format is {about['format']!r}, not {_FORMAT!r}")
            return cls(about["model"], int(about["texts"]), *(read[name] for name in _NAMES))
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"a sketch that cannot be read: {error!r}") from None
