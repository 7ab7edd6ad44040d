"""Adapters that come along with the demo, put where they can be promoted and rolled back."""

from __future__ import annotations

from pathlib import Path

from serve_app.errors import Unavailable
from serve_app.expert.adapters import Registry
from serve_app.expert.base import Base


def seed(folder: Path, root: str, base: Base) -> list[str]:
    """Copy releases into a registry that does not know their names, and let them serve there.

    Those of another base are left out: its engine could not use them.

    Args:
        folder: A registry's root in a folder that is only read.
        root: Of the registry, as `Registry` takes it.

    Returns:
        The names that were copied.

    Raises:
        Unavailable: The registry cannot be written to.
    """
    here, there = Registry(str(folder)), Registry(root)
    weights = base.weights_sha256()
    ours = {
        name: version
        for name, (version, *_) in here.serving().items()
        if here.manifest(name, version)["base"]["weights_sha256"] == weights
    }
    try:
        taken = [name for name in ours if there.current(name)["version"] is None]
        for name in taken:
            there.put(folder / name, name)
    except (OSError, Unavailable) as error:
        raise Unavailable(f"adapters cannot be copied in: {error}") from None
    return taken
