"""The pages for browsers: the playground at `/`, and the API's description at `/docs`.

Both are made of files that come along, and load nothing from anywhere else.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable, Coroutine
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response

# Nothing is loaded, nobody frames the page, and it talks to its own server only.
_POLICY = (
    "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


def install(app: FastAPI) -> None:
    """Add the pages, which need no key."""
    playground = files(__package__).joinpath("playground.html").read_text("utf-8")
    described = get_swagger_ui_html(
        openapi_url=app.openapi_url or "",
        title=f"{app.title}: API",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="data:,",
        swagger_ui_parameters={"validatorUrl": None},  # it would send the description elsewhere
    )
    description = bytes(described.body).decode()
    # Swagger UI styles its elements as it goes, and its pictures are in its style sheet.
    policies = {
        playground: f"script-src {_hashes(playground, 'script')}; "
        f"style-src {_hashes(playground, 'style')}",
        description: f"script-src 'self' {_hashes(description, 'script')}; "
        "style-src 'self' 'unsafe-inline'; img-src data:",
    }

    @app.get("/", include_in_schema=False)
    async def _playground() -> HTMLResponse:
        return _page(playground, policies[playground])

    @app.get("/docs", include_in_schema=False)
    async def _docs() -> HTMLResponse:
        return _page(description, policies[description])

    for name, kind in _ASSETS.items():
        app.add_api_route(f"/docs/{name}", _asset(name, kind), include_in_schema=False)


def _asset(name: str, kind: str) -> Callable[[], Coroutine[Any, Any, Response]]:
    file = files("fastapi_offline").joinpath("static", name)

    async def asset() -> Response:
        content = await asyncio.to_thread(file.read_bytes)
        return Response(content, media_type=kind, headers={"cache-control": "max-age=86400"})

    return asset


def _page(html: str, policy: str) -> HTMLResponse:
    headers = {
        "content-security-policy": f"{_POLICY}; {policy}",
        "x-frame-options": "DENY",  # for browsers that do not know frame-ancestors
        "referrer-policy": "no-referrer",
    }
    return HTMLResponse(html, headers=headers)


def _hashes(html: str, tag: str) -> str:
    """By which a policy allows the inline elements of a page, and no others."""
    inline = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (hashlib.sha256(text.encode()).digest() for text in inline)
    return " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests)
