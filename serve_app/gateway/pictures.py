"""Pictures in a conversation: an address, or the picture itself, checked before it is sent."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote, urlsplit

from serve_app.frontier.pictures import KINDS

_NAMES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}
_KINDS = ", ".join(KINDS)
_WANTED = (
    "send the picture as data:image/png;base64,…, or an https:// address of a host that we know"
)


def picture(url: str) -> str:
    """The address as providers take it.

    Raises:
        ValueError: It is none, or what it holds is no picture; the message says what to send.
    """
    url = url.strip()
    scheme, _, rest = url.partition(":")
    match scheme.lower():
        case "https" if _has_host(url):
            return f"https:{rest}"
        case "data":
            return _inline(rest)
        case "http":
            raise ValueError("http:// is not safe on its way: send an https:// address")
    raise ValueError(f"is no address of a picture: {_WANTED}")


def _has_host(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:
        return False


def _inline(rest: str) -> str:
    described, comma, data = rest.partition(",")
    kind, *parameters = (part.strip().lower() for part in described.split(";"))
    kind = _NAMES.get(kind, kind)
    if kind not in KINDS:
        raise ValueError(f"{kind or 'a kind that is not named'} is not taken: send one of {_KINDS}")
    if not comma or "base64" not in parameters:
        raise ValueError(f"the picture must be in base64: send data:{kind};base64,…")
    packed = "".join((unquote(data) if "%" in data else data).split()).rstrip("=")
    try:
        content = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the base64 is broken: encode the picture's bytes again") from None
    if not KINDS[kind].match(content):
        raise ValueError(
            f"the bytes are no {kind}: send a whole picture, under the kind that it is of"
        )
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
