"""Where packages come from: pip's configuration, in the words of uv, which reads none of it."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import socket
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

TORCH_CPU = "https://download.pytorch.org/whl/cpu/torch/"


class Sources(NamedTuple):
    environment: dict[str, str]
    find_links: list[str]

    @classmethod
    def from_pip(cls, *interpreters: str) -> Sources:
        """What the pip of the first interpreter that has one is configured for."""
        config = pip_config(*interpreters)
        told = {
            "UV_DEFAULT_INDEX": config.get("index-url", ""),
            "UV_INDEX": " ".join(filter(exists, config.get("extra-index-url", "").split())),
            "UV_NO_INDEX": config.get("no-index", ""),
            "UV_INSECURE_HOST": " ".join(config.get("trusted-host", "").split()),
            "UV_HTTP_TIMEOUT": config.get("timeout") or config.get("default-timeout", ""),
            "ALL_PROXY": config.get("proxy", ""),
            "SSL_CERT_FILE": config.get("cert", ""),
            # As pip does: the system's certificates; the best version of all indexes, not the
            # first index that has the name; and no Python but the one that is there.
            "UV_SYSTEM_CERTS": "" if config.get("cert") else "true",
            "UV_INDEX_STRATEGY": "unsafe-best-match",
            "UV_PYTHON_DOWNLOADS": "never",
        }
        environment = {name: value for name, value in told.items() if value}
        environment.update(os.environ)  # what the user told uv itself goes first
        links = environment.pop("UV_FIND_LINKS", "").replace(",", " ")
        return cls(environment, (links or config.get("find-links", "")).split())

    def without_local_indexes(self) -> Sources:
        """For resolving: a partial mirror on this machine must not decide anybody's versions."""
        indexes = self.environment.get("UV_INDEX", "").split()
        remote = " ".join(index for index in indexes if local_path(index) is None)
        return self._replace(environment={**self.environment, "UV_INDEX": remote})

    def has_torch(self, version: str, python: tuple[int, ...]) -> bool:
        """Whether a configured folder has that build of torch."""
        wheel = "torch-{}-cp{}{}-*.whl".format(version, *python)
        return any(has_file(link, wheel) for link in self.find_links)

    def offers_torch(self, version: str, python: tuple[int, ...]) -> bool:
        return self.has_torch(version, python) or self.reachable(TORCH_CPU)

    def for_cpu(self, torch: str, python: tuple[int, ...]) -> dict[str, str]:
        """uv's environment, with PyTorch's index if no configured folder has that CPU build."""
        links = self.find_links
        if not self.has_torch(torch, python) and self.reachable(TORCH_CPU):
            links = [*links, TORCH_CPU]
        return {**self.environment, "UV_FIND_LINKS": ",".join(links)}

    def for_gpu(self) -> dict[str, str]:
        """uv's environment, without the folders that have a CPU build of torch.

        2.13.0+cpu would satisfy `torch==2.13.0`, and be preferred.
        """
        links = [link for link in self.find_links if not has_file(link, "torch-*+cpu-*.whl")]
        return {**self.environment, "UV_FIND_LINKS": ",".join(links)}

    def unreachable_index(self) -> str:
        """The configured index if it does not answer, to say so now and not after many retries."""
        index = self.environment.get("UV_DEFAULT_INDEX", "")
        if not index or self.environment.get("UV_NO_INDEX") or self.reachable(index):
            return ""
        return re.sub(r"//[^/@]+@", "//", index)  # credentials stay out of messages

    def reachable(self, url: str) -> bool:
        """Whether the host, or the proxy in front of it, takes a connection within seconds."""
        if self.environment.get("UV_NO_INDEX"):
            return False
        path = local_path(url)
        if path is not None:
            return path.is_dir()
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        proxies = urllib.request.getproxies()
        proxy = proxies.get(parts.scheme) or self.environment.get("ALL_PROXY")
        if proxy and not urllib.request.proxy_bypass(host):
            parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"http://{proxy}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=5).close()
        except OSError:
            return False
        return True


def pip_config(*interpreters: str) -> dict[str, str]:
    """Option → value by pip's own rules: environment over command over global, blanks ignored."""
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in _pip_config_list(*interpreters).splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        with contextlib.suppress(ValueError, SyntaxError):
            text = str(ast.literal_eval(value))
            if text and section in sections:
                sections[section][option] = text
    return {**sections["global"], **sections["install"], **sections[":env:"]}


def _pip_config_list(*interpreters: str) -> str:
    for python in interpreters:
        command = [python, "-m", "pip", "config", "list"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return ""


def local_path(link: str) -> Path | None:
    parts = urllib.parse.urlsplit(link)
    if parts.scheme == "file":
        return Path(urllib.parse.unquote(parts.path))
    return None if parts.scheme else Path(link).expanduser()


def exists(index: str) -> bool:
    path = local_path(index)
    return path is None or path.is_dir()


def has_file(link: str, pattern: str) -> bool:
    path = local_path(link)
    return path is not None and any(path.glob(pattern))
