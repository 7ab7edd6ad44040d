"""The command line: `trivium …`."""

from __future__ import annotations

import sys

import typer
from rich.markup import escape

from serve_app import __version__
from serve_app.cli import (
    adapters,
    advice,
    calibrate_knowledge,
    calibrating,
    canary,
    claim,
    collections,
    cost,
    documents,
    evaluate,
    generation,
    k8s,
    keys,
    layers,
    ledger,
    local,
    proving,
    questions,
    searching,
    stack,
    sync,
    tuning,
)
from serve_app.cli.console import errors
from serve_app.errors import SettingsError, TriviumError

app = typer.Typer(
    name="trivium",
    help="One OpenAI-compatible endpoint; a router sends each question down the cheapest road "
    "that answers it well.\n\nStart here: [bold]trivium up --demo[/bold], then in another "
    'terminal [bold]trivium ask "What is our return window?"[/bold].',
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command(rich_help_panel="Run")(stack.up)
app.command(rich_help_panel="Run")(stack.down)
app.command(rich_help_panel="Run")(stack.reload)
app.command(rich_help_panel="Run")(stack.prepare)
app.command(rich_help_panel="Ask")(questions.ask)
app.command(rich_help_panel="Ask")(questions.route)
app.command(rich_help_panel="Ask")(generation.generate)
app.command(rich_help_panel="Knowledge")(documents.ingest)
app.command(rich_help_panel="Knowledge")(sync.sync)
app.command(rich_help_panel="Knowledge")(documents.reindex)
app.command(rich_help_panel="Knowledge")(searching.search)
app.add_typer(collections.collections, name="collections", rich_help_panel="Knowledge")
cost.cost.command()(k8s.machines)
app.add_typer(k8s.k8s, name="k8s", rich_help_panel="Run")
app.add_typer(keys.keys, name="keys", rich_help_panel="Money")
app.add_typer(cost.cost, name="cost", rich_help_panel="Money")
app.add_typer(ledger.ledger, name="ledger", rich_help_panel="Money")
app.add_typer(advice.advise, name="advise", rich_help_panel="Learn")
layers.train.command("expert")(tuning.train_expert)
app.add_typer(layers.train, name="train", rich_help_panel="Learn")
calibrating.calibrate.command("knowledge")(calibrate_knowledge.calibrate_knowledge)
app.add_typer(calibrating.calibrate, name="calibrate", rich_help_panel="Learn")
adapters.adapters.command()(canary.canary)
app.add_typer(adapters.adapters, name="adapters", rich_help_panel="Learn")
evaluate.evaluate.command("expert")(proving.evaluate_expert)
evaluate.evaluate.command("cost")(claim.evaluate_cost)
app.add_typer(evaluate.evaluate, name="evaluate", rich_help_panel="Learn")


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        print(f"trivium {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 130 interrupted."""
    local.set_environment()
    try:
        app()
    except TriviumError as error:
        errors.print(f"[red]error:[/red] {escape(error.message)}", soft_wrap=True)
        for note in getattr(error, "__notes__", ()):
            errors.print(escape(note), soft_wrap=True)
        wrong_usage = isinstance(error, SettingsError) or error.status in (400, 404, 422)
        sys.exit(2 if wrong_usage else 1)
    except KeyboardInterrupt:
        sys.exit(130)
