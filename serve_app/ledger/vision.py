"""How many tokens a picture takes at most, by the formulas that providers publish.

- OpenAI (platform.openai.com/docs/guides/images-vision, "Calculating costs"), tiles (GPT-4o,
  GPT-4.1, o1, GPT-5): scaled into 2048 x 2048 and then to a shorter side of 768 pixels; 85 tokens
  and 170 for each tile of 512 pixels; GPT-4o mini counts 2,833 and 5,667. With `detail: low` the
  first number alone. Patches (mini and nano models, GPT-5.4): of 32 pixels, at most 10,000, times
  at most 2.46, whatever the detail.
- Anthropic (platform.claude.com/docs/en/build-with-claude/vision): patches of 28 pixels, at most
  4,784.
- Open models behind an OpenAI-compatible server: Qwen-VL has patches of 28 pixels and at most
  16,384 by default (`max_pixels` of its preprocessor); others cut every picture, however small,
  into up to 4,096.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import PIL.Image

from serve_app.domain import Image

_FEWEST = 4_096
_MOST = 49_152  # of any size, by any of the formulas: GPT-4o mini's eight tiles are 48,169
_HEAD = 256 * 1024  # characters of base64 in which the size is looked for first, a multiple of 4
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP")  # that providers take
_UNREADABLE = (
    OSError,
    ValueError,
    PIL.Image.DecompressionBombError,
    PIL.Image.DecompressionBombWarning,
)


def most_tokens(image: Image, models: Sequence[str]) -> int:
    """For whichever of some models sees it.

    The size comes from the picture's own header, where it is in the request; else any size is
    possible.
    """
    if (size := _size(image.url)) is None:
        return _MOST
    width, height = size
    tiles = 0 if image.detail == "low" else _tiles(width, height)
    counts = [
        _FEWEST,
        min(_patches(width, height, 28), 16_384),
        math.ceil(min(_patches(width, height, 32), 10_000) * 2.46),
        85 + 170 * tiles,
    ]
    if any("4o-mini" in model for model in models):
        counts.append(2_833 + 5_667 * tiles)
    return max(counts)


def _patches(width: int, height: int, side: int) -> int:
    return math.ceil(width / side) * math.ceil(height / side)


def _tiles(width: int, height: int) -> int:
    scale = min(1.0, 2048 / max(width, height))
    scale *= 768 / (min(width, height) * scale)
    # No side is longer than the square that it was scaled into.
    return math.prod(math.ceil(min(side * scale, 2048) / 512) for side in (width, height))


def _size(url: str) -> tuple[int, int] | None:
    """Width and height of a picture in a `data:` URL, `None` where they cannot be read."""
    head, _, data = url.partition(",")
    if head[:5].lower() != "data:" or not head.lower().endswith(";base64"):
        return None
    # Most formats say it at once, and nothing of the rest is decoded then.
    for part in (data[:_HEAD], data) if len(data) > _HEAD else (data,):
        try:
            with PIL.Image.open(io.BytesIO(base64.b64decode(part)), formats=_FORMATS) as opened:
                width, height = opened.size
        except _UNREADABLE:
            continue
        return (width, height) if width > 0 and height > 0 else None
    return None
