"""`trivium up`, `down`, `reload` and `prepare`."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import psutil
import typer

from serve_app import models
from serve_app.cli import local, opening, steps
from serve_app.cli.console import errors, out
from serve_app.cli.sending import send
from serve_app.errors import SettingsError, Unavailable
from serve_app.retrieval.sources import discover
from serve_app.settings import Settings, load

_HANDBOOK = Path("configs/demo/handbook")
_ADAPTERS = Path("configs/demo/adapters")
_READY_S = 420.0

Config = Annotated[
    Path | None,
    typer.Option("--config", "-f", help="Settings file (YAML). Environment: TRIVIUM_…"),
]


def up(
    config: Config = Path("configs/local.yaml"),
    demo: Annotated[
        bool,
        typer.Option("--demo", help="Ingest the demo company and run its live feed."),
    ] = False,
    detach: Annotated[
        bool,
        typer.Option("--detach", "-d", help="Return when ready; stop with `trivium down`."),
    ] = False,
    port: Annotated[int | None, typer.Option(help="Overrides gateway.port.")] = None,
) -> None:
    """Bring up the whole stack on this machine and answer until Ctrl-C.

    The first start prepares the models, which takes a minute or two; later ones do not. While there
    is no API key, programs of this machine need none; other machines are not let in.
    """
    settings = _settings(config, port)
    if (running := local.RunFile.of(settings).process()) is not None:
        raise SettingsError(f"already running (process {running.pid}); stop it: trivium down")
    if detach:
        _detached(config, demo, port, settings)
        return
    settings = opening.opened(settings)
    demo_key = ""
    if demo:
        settings, demo_key = opening.with_demo_key(settings)
    url = f"http://{settings.gateway.host}:{settings.gateway.port}"
    local.check_port(settings.gateway.host, settings.gateway.port)
    run_file = local.RunFile.of(settings)
    run_file.write(url, config)
    try:
        # Entered in order, so that Ctrl-C at any point ends what has been started so far.
        with local.interruptible(), contextlib.ExitStack() as stack:
            steps.prepare(settings, models.missing(settings))
            if demo and settings.expert.lora.enabled:
                _seed(settings)
            with errors.status("starting Ray") as status:
                addresses = stack.enter_context(local.cluster(settings))
                run_file.write(url, config, addresses)
                local.deploy(
                    settings, addresses.dashboard, lambda names: status.update(f"starting {names}")
                )
                status.update("asking every road once")
                local.wait_ready(url, _READY_S)
            if demo:
                send(discover([str(_HANDBOOK)]), settings.retrieval.collection, url, demo_key)
                stack.enter_context(local.feed(url, settings.retrieval.collection, demo_key))
            _announce(url, demo, is_open=settings.gateway.open)
            signal.pause()
    except KeyboardInterrupt:
        errors.print("stopped")
    finally:
        run_file.remove()


def down(config: Config = Path("configs/local.yaml")) -> None:
    """Stop a stack that `trivium up` started here."""
    process = local.RunFile.of(_settings(config, None)).process()
    if process is None:
        out.print("nothing is running here")
        return
    with errors.status("stopping"):
        process.terminate()
        try:
            process.wait(60)
        except psutil.TimeoutExpired:
            raise Unavailable(f"process {process.pid} does not stop; end it by force") from None
    out.print("stopped")


def reload(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-f", help="Settings file; the one that `up` was given, if none."),
    ] = None,
    heads: Annotated[
        Path | None, typer.Option(help="Router heads to take instead of the settings'.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Router policy to take instead of the settings'.")
    ] = None,
    outcomes: Annotated[
        Path | None,
        typer.Option(help="What is known of the roads, to take instead of the settings'."),
    ] = None,
) -> None:
    """Give a running stack its settings anew, without dropping a request.

    They are checked first: bad ones are refused and the old ones stay in force. Limits, prices,
    policy, heads, time-outs and providers reach the running replicas; a change of what those cannot
    change (models, addresses, the engine) brings new replicas before the old ones leave.

    [bold]Example:[/bold] trivium reload --policy my-policy.yaml
    """
    settings = _settings(config or Path("configs/local.yaml"), None)
    run_file = local.RunFile.of(settings)
    addresses = run_file.addresses()
    if addresses is None:
        raise SettingsError("nothing is running here; start it: trivium up")
    if config is None:
        settings = _settings(run_file.config(), None)
    own = settings.router
    if heads is not None:
        own = own.with_heads(heads.resolve())
    if policy is not None:
        own = own.model_copy(update={"policy": policy.resolve()})
    if outcomes is not None:
        own = own.model_copy(update={"outcomes": outcomes.resolve()})
    settings = settings.model_copy(update={"router": own})
    steps.prepare(settings, models.missing(settings))
    settings = opening.as_running(settings, local.gateway_config(addresses.dashboard))
    with errors.status("handing them to the replicas") as status:
        local.reload(
            settings, addresses.dashboard, lambda names: status.update(f"waiting for {names}")
        )
    out.print("the new settings are in force")


def prepare(config: Config = Path("configs/local.yaml")) -> None:
    """Make the models that the settings need and that are not there yet, and start nothing.

    [bold]trivium up[/bold] does it by itself; this is for images (`shipped_models`).
    """
    settings = _settings(config, None)
    steps.prepare(settings, models.missing(settings))
    out.print(f"models are prepared in {settings.models_dir}")


def _seed(settings: Settings) -> None:
    """The demo company's adapters, if this base is theirs."""
    from serve_app.expert.base import find
    from serve_app.expert.shipped import seed

    base = find(models.base_model(settings), settings.expert.model)
    for name in seed(_ADAPTERS, settings.expert.adapters, base):
        errors.print(f"adapter {name} serves as trivium/expert:{name}")


def _settings(config: Path | None, port: int | None) -> Settings:
    settings = load(config).resolved(Path.cwd())
    if port is None:
        return settings
    return settings.model_copy(
        update={"gateway": settings.gateway.model_copy(update={"port": port})}
    )


def _detached(config: Path | None, demo: bool, port: int | None, settings: Settings) -> None:
    log = settings.state_dir / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "serve_app.cli", "up"]
    command += ["--config", str(config)] if config else []
    command += ["--demo"] if demo else []
    command += ["--port", str(port)] if port else []
    with (
        log.open("w", encoding="utf-8") as output,
        errors.status("starting in the background"),
    ):
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None and _READY not in log.read_text(encoding="utf-8"):
            time.sleep(0.5)
    if process.returncode is not None:
        lines = log.read_text(encoding="utf-8").strip().splitlines()
        raise Unavailable(f"it did not start: {lines[-1] if lines else 'no message'} (log: {log})")
    out.print(log.read_text(encoding="utf-8").strip())


_READY = "Trivium answers at"


def _announce(url: str, demo: bool, *, is_open: bool) -> None:
    out.print(
        f"\n[bold green]{_READY} {url}[/bold green]  (playground: {url}/ · API: {url}/docs)\n"
    )
    if is_open:
        out.print("It is open: whoever reaches it needs no API key (gateway.open).\n")
    else:
        out.print("Requests need an API key: trivium keys create NAME\n")
    if demo:
        out.print("Try, in another terminal:")
        for question in (
            "What was our revenue in the last 15 minutes?",
            "Rewrite in a friendly tone: your parcel is late and we do not know why.",
            "Three pumps fill a tank in 4, 6 and 12 hours. How long do they take together?",
        ):
            out.print(f'  .venv/bin/trivium ask "{question}"', style="cyan")
    out.print("\nCtrl-C stops it.")
