"""Where the commands print: results to stdout, everything else to stderr."""

from __future__ import annotations

from rich.console import Console

out = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False)

# A file or a pipe is as wide as need be; rich takes 80 columns and cuts figures short.
if not out.is_terminal:
    out.width = max(out.width, 120)
