"""`helm test`: each road answers one question by itself, over the Service that clients use."""

from __future__ import annotations

import os
import sys

import httpx

QUESTIONS = {
    "expert": "Rewrite in a friendly tone: your parcel is late.",
    "knowledge": "What are the opening hours of our stores?",
    "frontier": "Three pumps fill a tank in 4, 6 and 12 hours. How long do they take together?",
}
NO_KEY = "frontier-not-configured"
# A base without a word on it has been searched; what is then asked outside may have no key.
EXCUSED = {"knowledge": {"knowledge-no-evidence", NO_KEY}, "frontier": {NO_KEY}}


def ask(client: httpx.Client, road: str, question: str) -> str:
    """One line: the road answered and what it cost.

    Raises:
        SystemExit: It did not, or another one stood in for it; says why.
    """
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
    said = answer.headers.get("x-trivium-degraded", "")
    reasons = {reason for reason in said.split(", ") if reason}
    if reasons - EXCUSED.get(road, set()):
        raise SystemExit(f"{road}: does not answer by itself: {said}")
    if road == "frontier" and reasons:
        return "frontier: has no key"
    return f"{road}: answered, ${answer.headers.get('x-trivium-cost-usd', '?')}"


def main() -> None:
    key = os.environ.get("TRIVIUM_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    url = os.environ["TRIVIUM_URL"]
    # Network policies learn of a new pod after it has started: until then it is refused.
    transport = httpx.HTTPTransport(retries=5)
    with httpx.Client(base_url=url, headers=headers, timeout=150, transport=transport) as client:
        for road, question in QUESTIONS.items():
            print(ask(client, road, question), flush=True)


if __name__ == "__main__":
    try:
        main()
    except httpx.HTTPError as error:
        sys.exit(f"{os.environ['TRIVIUM_URL']} does not answer: {error}")
