"""`trivium train cross-encoder`: the small model that grades passages and checks sentences."""

from __future__ import annotations

import datetime
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from serve_app import minilm, models
from serve_app.cli.client import Json
from serve_app.cli.console import Bars, out
from serve_app.errors import SettingsError
from serve_app.router.export import NARROW
from serve_app.settings import BUNDLED

if TYPE_CHECKING:
    from serve_app.retrieval.cross_encoder.training.measure import Score
    from serve_app.retrieval.cross_encoder.training.rows import Pair


def train_cross_encoder(
    data: Annotated[
        list[Path],
        typer.Option(
            "--data",
            "-d",
            help="Rows, JSONL or JSONL.gz: question + passage + relevant, question + passages + "
            "support + answers, or source + answer + faithful. Repeat for more files.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the weights go (.safetensors).")
    ],
    held_out: Annotated[
        list[Path] | None,
        typer.Option("--held-out", help="Rows to measure on, never trained on. Repeat."),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Weights to go on from; default: the router's narrow MiniLM."),
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Pairs of each file, drawn; default: all.")
    ] = None,
    made: Annotated[
        int, typer.Option("--claims", min=0, help="Claims to make of the rows' passages.")
    ] = 9000,
    epochs: Annotated[int, typer.Option(min=1, help="Times through the data.")] = 2,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Its peak.")] = 3e-4,
    most: Annotated[
        int, typer.Option("--most", min=1, help="Held-out rows of a file that are measured.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same weights.")] = 0,
    as_json: Json = False,
) -> None:
    """Fit the cross-encoder: does a passage answer a question, and does it support a claim?

    About an hour for 40,000 pairs on two cores. Claims that are wrong by one number, name, negation
    or opposite are made of the passages, as no set of judged ones is large enough to learn that.

    [bold]Example:[/bold] trivium train cross-encoder -d graded.jsonl -d judged.jsonl
    --held-out others.jsonl -o weights.safetensors
    """
    from transformers import AutoTokenizer

    from serve_app.retrieval.cross_encoder.network import Network
    from serve_app.retrieval.cross_encoder.training import fit, rows

    _check(output)
    read = {str(path): _drawn(rows.read(path), sample, seed) for path in data}
    apart = {
        path.name if path.parent == Path() else f"{path.parent.name}/{path.name}": rows.read(path)[
            :most
        ]
        for path in held_out or ()
    }
    pairs = _pairs([each for found in read.values() for each in found], made, seed)
    source = Path(models.embedding_models()[BUNDLED])
    network = Network(minilm.with_layers(source, NARROW))
    if start:
        network.load(start)
    recipe = fit.Recipe(epochs=epochs, learning_rate=learning_rate, seed=seed)
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, TimeRemainingColumn(), TextColumn("{task.fields[loss]}")) as bars:
        task = bars.add_task("training", total=None, loss="")
        smooth = 0.0

        def on_step(step: int, steps: int, loss: float) -> None:
            nonlocal smooth
            smooth = loss if step == 1 else 0.98 * smooth + 0.02 * loss
            bars.update(task, completed=step, total=steps, loss=f"loss {smooth:.3f}")

        fit.fit(network, AutoTokenizer.from_pretrained(source), pairs, recipe, on_step)
    card = {
        "trained_on": {name: len(found) for name, found in read.items()},
        "recipe": asdict(recipe),
        "from": start.name if start else NARROW.name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    network.save(output, {"card": json.dumps(card)})
    scores = _measured(source, output, apart, seed)
    result = {
        "output": str(output),
        "pairs": len(pairs),
        "seconds": round(time.monotonic() - started, 1),
        "bytes": output.stat().st_size,
        "held_out": [each.plain() for each in scores],
    }
    if as_json:
        print(json.dumps(result))
        return
    out.print(f"{output}: {len(pairs)} pairs in {result['seconds']} s")
    if scores:
        out.print(_table(scores))


def _drawn(pairs: list[Pair], count: int | None, seed: int) -> list[Pair]:
    if count is None or count >= len(pairs):
        return pairs
    return random.Random(seed).sample(pairs, count)  # noqa: S311  # the same every time


def _check(output: Path) -> None:
    if output.is_dir():
        raise SettingsError(f"{output} is a folder; name a file in it")
    if not output.parent.is_dir():
        raise SettingsError(f"{output.parent}: there is no such folder to write {output.name} to")


def _pairs(found: Sequence[Pair], made: int, seed: int) -> list[Pair]:
    """The rows' own, each once, and claims made of their passages and answers."""
    from serve_app.retrieval.cross_encoder.training import claims

    noise = random.Random(seed)  # noqa: S311  # the same every time
    # The same question and passage may come graded and answered: what says where goes first.
    once = {(each.first, each.second): each for each in sorted(found, key=lambda p: bool(p.span))}
    passages = sorted({each.second for each in once.values() if each.answers is not None})
    if made:
        own = claims.of_passages(passages, made, noise)
        own += claims.of_answers([each for each in once.values() if each.span], made // 3, noise)
    else:
        own = []
    return [*once.values(), *own]


def _measured(source: Path, weights: Path, apart: dict[str, list[Pair]], seed: int) -> list[Score]:
    """Of the int8 model, as it is served."""
    from serve_app.retrieval.cross_encoder.export import export
    from serve_app.retrieval.cross_encoder.model import CrossEncoder
    from serve_app.retrieval.cross_encoder.training import measure

    if not apart:
        return []
    with tempfile.TemporaryDirectory(prefix="trivium-cross-encoder-") as folder:
        export(source, weights, Path(folder))
        model = CrossEncoder(Path(folder), threads=2)
        found = []
        for name, pairs in apart.items():
            found += [measure.graded(model, name, pairs), measure.judged(model, name, pairs)]
            if any(each.answers is not None for each in pairs):
                found += measure.changed(model, name, pairs, seed)
    return [each for each in found if each]


def _table(scores: Sequence[Any]) -> Table:
    table = Table("task", "rows of", "pairs", "AUC", "word overlap", "caught at 10 % false alarms")
    for each in scores:
        caught = "" if each.caught is None else f"{each.caught:.3f}"
        figures = (f"{each.auc:.3f}", f"{each.overlap:.3f}", caught)
        table.add_row(each.task, each.name, str(each.pairs), *figures)
    return table
