"""Set up Trivium: one virtual environment, `.venv`, from a pinned lock.

Run it with any Python 3.11 or 3.12 and nothing else installed:

    python3 tools/setup.py

It takes the lock for this machine (GPU when `nvidia-smi` answers, else CPU), installs it with uv,
then Trivium itself, editable. A run that finds everything in place ends at once; one that was
interrupted is repaired by the next. Packages come from wherever pip is configured to find them,
the CPU build of torch from PyTorch's own index unless a find-links folder has it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sources import TORCH_CPU, Sources

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
STAMP = VENV / ".trivium-stamp"  # what was installed, written last
UNFINISHED = VENV / ".trivium-unfinished"  # there while packages are being written

PYTHONS = ((3, 11), (3, 12))
UV_VERSION = "0.13.9"
FREE_GB = {"cpu": 8, "gpu": 20}
STARTED = time.monotonic()
ENVIRONMENT_HELP = """\
environment:
  TRIVIUM_ACCELERATOR   cpu or gpu: the lock to install, instead of asking nvidia-smi
  TRIVIUM_MIN_FREE_GB   the free disk space to insist on (default: 8 for cpu, 20 for gpu)
"""


class Failure(Exception):
    """What went wrong and what to do about it, in one sentence."""


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:5.1f} s] {text}", flush=True)


# --- the machine ---------------------------------------------------------------------------------


def check_python(arguments: list[str]) -> None:
    """Go on in a Python that fits: this one, or else the first on PATH."""
    if sys.version_info[:2] in PYTHONS:
        return
    for version in PYTHONS:
        for folder in os.get_exec_path():
            candidate = str(Path(folder) / "python{}.{}".format(*version))
            if version_of(candidate) == version:
                os.execv(candidate, [candidate, __file__, *arguments])  # noqa: S606
    raise Failure(
        f"Trivium needs Python 3.11 or 3.12 and this is {platform.python_version()}: install "
        "python3.11, or name one with `make setup PYTHON=/path/to/python3.11`"
    )


def version_of(python: str | Path, probe: str = "sys") -> tuple[int, ...] | None:
    """The (major, minor) version of an interpreter that starts and can import `probe`."""
    code = f"import sys, {probe}; print(*sys.version_info[:2])"
    command = [str(python), "-I", "-c", code]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return tuple(int(part) for part in run.stdout.split())


def check_machine() -> None:
    libc, libc_version = platform.libc_ver()
    machine = f"{platform.system()} {platform.machine()} {libc} {libc_version}".strip()
    number = tuple(int(part) for part in re.findall(r"\d+", libc_version)[:2])
    if not machine.startswith("Linux x86_64 glibc") or number < (2, 31):
        raise Failure(
            f"the packages are for Linux x86_64 with glibc 2.31 or later and this is {machine}: "
            "use such a machine or container, for example Debian 11 or Ubuntu 20.04 and later"
        )
    missing = [name for name in ("venv", "ensurepip") if not importlib.util.find_spec(name)]
    if missing:
        package = "python{}.{}-venv".format(*sys.version_info[:2])
        raise Failure(
            f"this Python has no module {' nor '.join(missing)}: install it, on Debian and Ubuntu "
            f"with `sudo apt-get install {package}`"
        )


def check_libraries(kind: str) -> None:
    """vLLM for the CPU links with this library, which no package brings along."""
    if kind == "cpu":
        try:
            ctypes.CDLL("libnuma.so.1")
        except OSError:
            raise Failure(
                "the library libnuma.so.1 is missing: install it, on Debian and Ubuntu with "
                "`sudo apt-get install libnuma1`"
            ) from None


def accelerator() -> str:
    kind = os.environ.get("TRIVIUM_ACCELERATOR", "").lower()
    if kind in FREE_GB:
        return kind
    if kind:
        raise Failure(f"TRIVIUM_ACCELERATOR is {kind!r}: set it to cpu or gpu, or unset it")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=True, timeout=20)  # noqa: S607
        return "gpu"
    return "cpu"


def check_space(kind: str) -> None:
    try:
        needed = float(os.environ.get("TRIVIUM_MIN_FREE_GB") or FREE_GB[kind])
    except ValueError:
        raise Failure("TRIVIUM_MIN_FREE_GB is not a number: set it to one, or unset it") from None
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < needed:
        raise Failure(
            f"{free:.1f} GB of disk are free and the environment wants {needed:g} GB: free some "
            "(`make clean` removes an old environment), or lower TRIVIUM_MIN_FREE_GB if uv's cache "
            "already holds the packages"
        )


def warn_without_compiler() -> None:
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        say(
            "note: there is no C++ compiler; vLLM needs one, and Python's headers, only with "
            "`enforce_eager: false`, which no configuration that comes along has for the CPU"
        )


# --- the environment -----------------------------------------------------------------------------


def lock_of(kind: str) -> Path:
    return REQUIREMENTS / f"{kind}.lock"


def stamp_for(kind: str) -> dict[str, str]:
    seen = hashlib.sha256()
    for path in (lock_of(kind), ROOT / "pyproject.toml"):
        seen.update(path.read_bytes())
    return {"kind": kind, "root": str(ROOT), "digest": seen.hexdigest()}


def stamp_found() -> dict[str, str]:
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def is_ready(kind: str) -> bool:
    if UNFINISHED.exists() or stamp_found() != stamp_for(kind):
        return False
    return version_of(PYTHON) in PYTHONS


def why_anew(kind: str) -> str:
    """Why the environment that is there cannot be built upon; empty when it can."""
    stamp = stamp_found()
    if UNFINISHED.exists():
        return "the last set-up was interrupted"
    if version_of(PYTHON, "pip") not in PYTHONS:
        return "the environment is broken"
    if stamp.get("root", str(ROOT)) != str(ROOT):
        return "the project has moved"
    if stamp.get("kind", kind) != kind:
        return f"the environment is for {stamp['kind']}, not for {kind}"
    return ""


def create() -> None:
    import venv  # some systems leave it out: `check_machine` says so first

    say("creating .venv")
    VENV.mkdir()
    UNFINISHED.touch()
    try:
        venv.create(VENV, symlinks=True, with_pip=True)
    except subprocess.CalledProcessError as error:
        reason = (error.output or b"").decode(errors="replace").strip().rpartition("\n")[2]
        raise Failure(
            f"Python's own venv failed ({reason or error}): reinstall Python's venv package, or "
            "name another Python with `make setup PYTHON=/path/to/python3.11`"
        ) from None


def remove() -> None:
    try:
        if VENV.is_symlink() or VENV.is_file():
            VENV.unlink()
        else:
            shutil.rmtree(VENV)
    except OSError as error:
        raise Failure(
            f"cannot remove {error.filename} ({error.strerror}): remove .venv yourself"
        ) from None


INDEX_ADVICE = (
    "check that the index `python3 -m pip config list` names (or pip's default) can be reached, "
    "and run this again; downloads are kept"
)


def execute(
    command: list[str],
    purpose: str,
    environment: dict[str, str] | None = None,
    advice: str = INDEX_ADVICE,
) -> None:
    code = subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode
    if code == 0:
        return
    if code < 0:
        raise Failure(f"could not {purpose}, it was killed (signal {-code}): run this again")
    if shutil.disk_usage(ROOT).free < 5e8:
        raise Failure(f"could not {purpose}, the disk is full: free some space, run this again")
    raise Failure(f"could not {purpose}, for the reason above: {advice}")


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Marks the environment unfinished until all is written, or nothing was."""
    packages = next((VENV / "lib").glob("python*/site-packages"))
    before = packages.stat().st_mtime_ns
    UNFINISHED.touch()
    try:
        yield
    except Failure:
        if packages.stat().st_mtime_ns == before:
            UNFINISHED.unlink()
        raise
    UNFINISHED.unlink()


def fetch_uv() -> None:
    with contextlib.suppress(OSError):
        known = subprocess.run([str(UV), "--version"], capture_output=True, text=True, check=False)
        if UV_VERSION in known.stdout.split():
            return
    say(f"fetching uv {UV_VERSION}")
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "-qq"]
    limits = ["--retries", "1", "--timeout", "30"]
    execute([*pip, *limits, "install", "--no-deps", f"uv=={UV_VERSION}"], "fetch uv")


def prepare(kind: str, *, anew: bool = False) -> Sources:
    """An environment with uv in it, and where uv may look."""
    there = VENV.exists() or VENV.is_symlink()
    reason = "as you wish" if anew else why_anew(kind)
    sources = Sources.from_pip(str(PYTHON), sys.executable)
    index = sources.unreachable_index()
    if index:
        raise Failure(
            f"the package index {index} cannot be reached: check the network, and what "
            "`python3 -m pip config list` says about index-url and proxy"
        )
    if reason:
        check_space(kind)
    if there and reason:
        say(f"{reason}: removing .venv")
        remove()
    if reason:
        create()
    fetch_uv()
    UNFINISHED.unlink(missing_ok=True)
    return sources


def install(kind: str, *, anew: bool = False) -> None:
    sources = prepare(kind, anew=anew)
    lock = lock_of(kind)
    pins = re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    torch, python = dict(pins)["torch"], version_of(PYTHON) or sys.version_info[:2]
    environment = sources.for_gpu() if kind == "gpu" else sources.for_cpu(torch, python)
    advice = INDEX_ADVICE
    if kind == "cpu" and not sources.offers_torch(torch, python):
        advice = (
            f"no folder in pip's find-links has a wheel of torch {torch} for this Python and "
            f"{TORCH_CPU} cannot be reached, so make one of them possible and run this again"
        )
    uv = [str(UV), "pip", "install", "--no-deps", "--python", str(PYTHON)]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    with writing():
        say(f"installing the {len(pins)} packages of {lock.relative_to(ROOT)}")
        # Compiled here once: Ray's workers import vLLM without keeping what they compiled.
        command = [*uv, *quiet, "--compile-bytecode", "--only-binary", ":all:", "-r", str(lock)]
        execute(command, "install the packages", environment, advice)
        say("installing Trivium itself, editable")
        command = [*uv, "--quiet", "--no-build-isolation", "-e", "."]
        execute(command, "install Trivium itself", environment)
        STAMP.write_text(json.dumps(stamp_for(kind)), encoding="utf-8")
    warn_without_compiler()
    say(f"ready for {kind}")


# --- the locks -----------------------------------------------------------------------------------


def write_locks(*, upgrade: bool) -> None:
    """Resolve pyproject.toml for both machines; pins stay as they are unless they must move."""
    sources = prepare(accelerator()).without_local_indexes()
    torch = re.search(r"^torch==(\S+)", (REQUIREMENTS / "overrides-cpu.txt").read_text(), re.M)
    if torch is None:
        raise Failure("requirements/overrides-cpu.txt pins no torch: add `torch==VERSION+cpu`")
    compile_lock("gpu", ["overrides.txt"], sources.for_gpu(), upgrade)
    overrides = ["overrides.txt", "overrides-cpu.txt"]
    compile_lock("cpu", overrides, sources.for_cpu(torch[1], PYTHONS[0]), upgrade)
    # The CPU build comes from more than one place, and not every place has the same file.
    pattern = r"^(torch==\S+\+cpu)(?: \\\n +--hash=\S+)+"
    text = lock_of("cpu").read_text(encoding="utf-8")
    lock_of("cpu").write_text(re.sub(pattern, r"\1", text, flags=re.M), encoding="utf-8")


def compile_lock(
    kind: str, overrides: list[str], environment: dict[str, str], upgrade: bool
) -> None:
    lock = lock_of(kind).relative_to(ROOT)
    say(f"resolving {lock}")
    command = [str(UV), "pip", "compile", "--quiet", "--python", str(PYTHON), "pyproject.toml"]
    command += ["--extra", kind, "--extra", "dev", "--output-file", str(lock)]
    for name in overrides:
        command += ["--overrides", f"requirements/{name}"]
    command += ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_31"]
    command += ["--only-binary", ":all:", "--generate-hashes", "--annotation-style", "line"]
    command += ["--custom-compile-command", "make lock"]
    execute(command + ["--upgrade"] * upgrade, f"resolve {lock}", environment)


# --- the command ---------------------------------------------------------------------------------


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One set-up at a time: a second would take the first one's work for a ruin."""
    import fcntl

    path = ROOT / ".trivium" / "setup.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up to finish")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tools/setup.py",
        description=__doc__,
        epilog=ENVIRONMENT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--anew", action="store_true", help="remove .venv first")
    parser.add_argument("--lock", action="store_true", help="resolve requirements/*.lock instead")
    parser.add_argument("--upgrade", action="store_true", help="with --lock: move every pin")
    options = parser.parse_args(arguments)
    check_python(arguments)
    check_machine()
    kind = accelerator()
    check_libraries(kind)
    if not (options.lock or options.anew) and is_ready(kind):
        say(f"ready for {kind}")
        return
    with alone():
        if options.lock:
            write_locks(upgrade=options.upgrade)
        elif options.anew or not is_ready(kind):
            install(kind, anew=options.anew)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failure as failure:
        sys.exit(f"set-up failed: {failure}")
    except OSError as error:
        sys.exit(f"set-up failed: {error}: check the disk and who owns this folder")
    except KeyboardInterrupt:
        print("\nset-up interrupted; run it again, downloads are kept", file=sys.stderr)
        sys.exit(130)
