"""`helm test`: each road answers one question, over the Service that clients use."""

from __future__ import annotations

import os
import sys

import httpx

QUESTIONS = {
    "expert": "Rewrite in a friendly tone: your parcel is late.",
    "knowledge": "What are the opening hours of our stores?",
    "frontier": "Three pumps fill a tank in 4, 6 and 12 hours. How long do they take together?",
}


def ask(client: httpx.Client, road: str, question: str) -> str:
    """One line: which road answered and what it cost, or why none did."""
    body = {
        "model": f"trivium/{road}",
        "messages": [{"role": "user", "content": question}],
        "max_completion_tokens": 32,
    }
    answer = client.post("/v1/chat/completions", json=body)
    if answer.status_code == 401:
        raise SystemExit(
            "the gateway wants an API key: put one into the Secret that client.apiKeySecret names"
        )
    if answer.is_error:
        raise SystemExit(f"{road}: HTTP {answer.status_code}: {answer.text}")
    taken = answer.headers.get("x-trivium-route", "?")
    degraded = answer.headers.get("x-trivium-degraded")
    # Without a key the frontier's questions go elsewhere, and the answer says so.
    if taken != road and not degraded:
        raise SystemExit(f"{road}: the road {taken} answered and did not say why")
    return f"{road}: answered, ${answer.headers.get('x-trivium-cost-usd', '?')}" + (
        f", degraded: {degraded}" if degraded else ""
    )


def main() -> None:
    key = os.environ.get("TRIVIUM_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    url = os.environ["TRIVIUM_URL"]
    with httpx.Client(base_url=url, headers=headers, timeout=150) as client:
        for road, question in QUESTIONS.items():
            print(ask(client, road, question), flush=True)


if __name__ == "__main__":
    try:
        main()
    except httpx.HTTPError as error:
        sys.exit(f"{os.environ['TRIVIUM_URL']} does not answer: {error}")
