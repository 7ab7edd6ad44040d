"""An image of what Trivium asks: PostgreSQL and Redis of Debian's, Milvus of its wheel's."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from tools.cluster.image import debian, scratch
from tools.cluster.machine import Cluster

IMAGE = "docker.io/library/trivium-stores:1"
DEBIAN = ("python3-minimal", "libpython3-stdlib", "postgresql", "redis-server")
ENVIRONMENT = ("PATH=/usr/lib/postgresql/15/bin:/usr/bin:/bin", "PYTHONPATH=/opt/wheels")


def stores(cluster: Cluster) -> None:
    """Pack the image if it is not there."""
    if IMAGE in cluster.images():
        return
    spec = find_spec("milvus")
    assert spec is not None
    assert spec.origin is not None
    with scratch() as work:
        root = work / "root"
        debian(root, DEBIAN, "store")
        shutil.copytree(Path(spec.origin).parent, root / "opt/wheels/milvus")
        cluster.pack(root, IMAGE, "--env", *ENVIRONMENT, "--user", "1000:100")
