"""`python -m tools.cluster`: pack, start, install and test; prints what each step took."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tools.cluster import image, stores
from tools.cluster.machine import BIN, ROOT, Cluster, Failure, lacking

Seen = TypeVar("Seen")
TESTS = "tests/cluster_full"


def step(what: str, do: Callable[[], Seen]) -> Seen:
    started = time.monotonic()
    print(f"{what} …", flush=True)
    seen = do()
    print(f"{what}: {time.monotonic() - started:.1f} s", flush=True)
    return seen


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="tools.cluster", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the cluster's script")
    parser.add_argument("--image", action="store_true", help="only pack and start, test nothing")
    parser.add_argument("tests", nargs="*", default=[TESTS], help="for pytest")
    options = parser.parse_args(arguments)
    if reason := lacking(options.folder):
        sys.exit(f"no cluster on this machine: {reason}")
    cluster = Cluster(options.folder.resolve())
    step("start the cluster", lambda: cluster.call("up"))
    step("install the operator", lambda: cluster.call("operator"))
    base = step("pack Debian and the packages", lambda: image.packages(cluster))
    base = step("pack the models", lambda: image.models(cluster, base))
    step("pack the code", lambda: image.code(cluster, base))
    image.code(cluster, base, image.NEXT, mark="next")
    step("pack the stores", lambda: stores.stores(cluster))
    if not options.image:
        pytest = [str(BIN / "python"), "-m", "pytest", "-x", "--durations=0", *options.tests]
        code = step("test", lambda: cluster.attached("env", f"PYTHONPATH={ROOT}", *pytest))
        sys.exit(code)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failure as failure:
        sys.exit(str(failure))
