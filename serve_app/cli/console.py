"""Where the commands print: results to stdout, everything else to stderr."""

from __future__ import annotations

from rich.console import Console

out = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False)
