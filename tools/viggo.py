r"""ViGGO (Juraska et al., INLG 2019): what a small model learns of one strict output format.

    D=../shared/data/format V=viggo
    python -m tools.viggo prepare $D $V
    trivium train expert -d $V/train.jsonl --valid $V/valid.jsonl -o $V/adapter --workers 2 \
      --learning-rate 1.5e-3 --epochs 1 --batch 2 --max-tokens 256 --licence CC-BY-SA-4.0
    trivium generate --adapter $V/adapter -i $V/asked.jsonl -o $V/adapter.jsonl --max-tokens 96
    trivium generate -i $V/asked_base.jsonl -o $V/base.jsonl --max-tokens 96
    python -m tools.viggo score $D $V/base.jsonl $V/adapter.jsonl

A sentence about video games becomes a meaning representation, `function(slot[value], …)`. The
adapter is asked in two letters; the base gets the best prompt we found, with an example or two of
each function.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from serve_app.evaluation.metrics import ratio_interval

SYSTEM = "MR"
WATCHED = 150  # validation rows that the loss is taken on; all are scored
BASE = """\
Translate the sentence about video games into a meaning representation: one function with slots, \
function(slot[value], slot[value]).
Functions: {functions}.
Slots: {slots}.
Write the meaning representation and nothing else. Copy names as they are. yes/no slots are yes or \
no; rating is excellent, good, average or poor."""
_OFTEN = ("inform", "give_opinion", "verify_attribute")  # these functions get two examples

Message = dict[str, str]
Slots = Counter[tuple[str, str]]


def read(data: Path, part: str) -> list[dict[str, str]]:
    text = (data / f"viggo_{part}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def prepare(data: Path, output: Path) -> None:
    """Write what `trivium train expert` and `trivium generate` take."""
    output.mkdir(parents=True, exist_ok=True)
    train, valid = read(data, "train"), read(data, "valid")
    shots = examples(train)

    def learned(row: dict[str, str]) -> dict[str, Any]:
        return {"messages": [*asked(row), said("assistant", row["meaning_representation"])]}

    def asked(row: dict[str, str]) -> list[Message]:
        return [said("system", SYSTEM), said("user", row["text"])]

    write(output / "train.jsonl", [learned(row) for row in train])
    write(output / "valid.jsonl", [learned(row) for row in valid[:WATCHED]])
    write(
        output / "asked.jsonl", [{"id": i, "messages": asked(row)} for i, row in enumerate(valid)]
    )
    write(
        output / "asked_base.jsonl",
        [{"id": i, "messages": [*shots, said("user", row["text"])]} for i, row in enumerate(valid)],
    )


def examples(train: Sequence[dict[str, str]]) -> list[Message]:
    """The base's prompt: the format in words, and short training rows of each function."""
    by: dict[str, list[dict[str, str]]] = {}
    slots: Counter[str] = Counter()
    for row in train:
        wanted = row["meaning_representation"]
        by.setdefault(wanted.partition("(")[0], []).append(row)
        slots.update(re.findall(r"(\w+)\[", wanted))
    rng = random.Random(3)
    chosen: list[dict[str, str]] = []
    for function, rows in by.items():
        short = [row for row in rows if 40 < len(row["text"]) < 170]
        chosen += rng.sample(short, 2 if function in _OFTEN else 1)
    rng.shuffle(chosen)
    names = ", ".join(name for name, _ in slots.most_common())
    messages = [said("system", BASE.format(functions=", ".join(by), slots=names))]
    for row in chosen:
        messages += [said("user", row["text"]), said("assistant", row["meaning_representation"])]
    return messages


def said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def parse(text: str) -> tuple[str | None, Slots]:
    """Function and slots; the function is None where the form is broken."""
    whole = re.fullmatch(r"\s*(\w+)\((.*)\)\s*", text, re.DOTALL)
    slots = Counter(re.findall(r"(\w+)\[([^\]]*)\]", text))
    return (whole[1] if whole else None), slots


def score(data: Path, answers: Sequence[Path]) -> Table:
    """Exact match and slot F1 over all validation rows, with 95 % bootstrap intervals."""
    wanted = [row["meaning_representation"] for row in read(data, "valid")]
    table = Table("answers", "rows", "exact match", "slot F1", "form kept")
    for path in answers:
        given = {row["id"]: row["text"].strip() for row in map(json.loads, path.open("rb"))}
        if missing := set(range(len(wanted))) - set(given):
            raise SystemExit(f"{path}: {len(missing)} answers are missing; run `generate` again")
        exact, shared, slots, form = np.zeros((4, len(wanted)))
        for i, reference in enumerate(wanted):
            function, ours = parse(given[i])
            _, theirs = parse(reference)
            exact[i] = given[i] == reference
            shared[i] = 2 * (ours & theirs).total()
            slots[i] = ours.total() + theirs.total()
            form[i] = function is not None
        ones = np.ones(len(wanted))
        cells = [
            "{:.3f} ({:.2f}–{:.2f})".format(*ratio_interval(top, bottom))
            for top, bottom in ((exact, ones), (shared, slots), (form, ones))
        ]
        table.add_row(path.stem, str(len(wanted)), *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.viggo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("do", choices=("prepare", "score"))
    parser.add_argument("data", type=Path, help="folder of viggo_{train,valid}.jsonl")
    parser.add_argument("paths", type=Path, nargs="+", help="output folder; or answers")
    chosen = parser.parse_args()
    if chosen.do == "prepare":
        prepare(chosen.data, chosen.paths[0])
    else:
        Console().print(score(chosen.data, chosen.paths))


if __name__ == "__main__":
    main()
