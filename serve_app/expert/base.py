"""The base model that adapters are made for: where its weights are, and their hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from serve_app.errors import SettingsError

_BLOCK = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Base:
    """A model's folder with weights in safetensors.

    Attributes:
        name: What recipes call it.
        source: Folder or hub id, by which another machine finds it.
    """

    name: str
    folder: Path
    source: str = ""

    def weights_sha256(self) -> str:
        """Of names and contents of all weight files: two models with it answer alike."""
        digest = hashlib.sha256()
        for path in _weights(self.folder):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        return digest.hexdigest()


def find(source: str, name: str) -> Base:
    """The model of a folder, or of a hub id, downloaded if it is not here yet.

    Raises:
        SettingsError: There is no such model, or its weights are not safetensors.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _downloaded(source)
    missing = [
        each for each in ("config.json", "tokenizer_config.json") if not (folder / each).is_file()
    ]
    if missing or not _weights(folder):
        lacks = " and ".join(missing) or "weights in .safetensors"
        raise SettingsError(f"{folder} is no model to train: it lacks {lacks}")
    return Base(name, folder, source)


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _downloaded(source: str) -> Path:
    # Imported here: a folder, the usual case, needs no hub.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.json", "*.jinja", "*.safetensors", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(source, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        raise SettingsError(
            f"--base {source}: there is no such folder, and the model hub has no such model or "
            "cannot be reached; name a folder with config.json, tokenizer and .safetensors"
        ) from None
