"""What goes out over the wire: OpenAI's chat objects, with cost and citations in them."""

from __future__ import annotations

import dataclasses
from typing import Any
from urllib.parse import quote

from serve_app.domain import Answer, Chunk, Citation, Cost, Decision, Refusal, ToolCall, Usage
from serve_app.orchestration.run import Piece


class ChatFormat:
    """Formats one chat completion, whole or in chunks.

    Args:
        completion_id: `chatcmpl-…`, the same in every chunk.
        created: Unix time in seconds.
        model: The model as the caller named it.
    """

    def __init__(self, completion_id: str, created: int, model: str, collection: str) -> None:
        self.model = model
        self._head = {"id": completion_id, "created": created, "model": model}
        self._collection = collection

    def completion(self, answer: Answer, cost: Cost) -> dict[str, Any]:
        """The whole answer as one object."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": answer.text or (None if answer.tool_calls or answer.refusal else ""),
            "refusal": answer.refusal or None,
        }
        if answer.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": _function(call)}
                for call in answer.tool_calls
            ]
        if answer.citations:
            message["annotations"] = self._annotations(answer.citations)
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": answer.finish_reason,
            "logprobs": None,
        }
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": usage(answer.usage, cost),
        }

    def first(self) -> dict[str, Any]:
        """The chunk that opens a stream."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def piece(self, piece: Piece) -> dict[str, Any]:
        """A chunk of text, of a refusal, or of a call: the first of a call's has its id."""
        if isinstance(piece, str):
            return self._chunk({"content": piece}, None)
        if isinstance(piece, Refusal):
            return self._chunk({"refusal": piece.text}, None)
        call: dict[str, Any] = {"index": piece.index, "function": _function(piece)}
        if piece.id:
            call |= {"id": piece.id, "type": "function"}
        return self._chunk({"tool_calls": [call]}, None)

    def last(self, answer: Answer, facts: dict[str, str] | None = None) -> dict[str, Any]:
        """The chunk that closes a stream; citations are complete only now.

        Args:
            facts: What headers would have told, where they left before it was known.
        """
        delta: dict[str, Any] = {}
        if answer.citations:
            delta["annotations"] = self._annotations(answer.citations)
        told = {"trivium": facts} if facts else {}
        return {**self._chunk(delta, answer.finish_reason), **told}

    def usage(self, answer: Answer, cost: Cost) -> dict[str, Any]:
        """The chunk behind the last, on request."""
        return {
            **self._head,
            "object": "chat.completion.chunk",
            "choices": [],
            "usage": usage(answer.usage, cost),
        }

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        choice = {
            "index": 0,
            "delta": delta,
            "finish_reason": finish_reason,
            "logprobs": None,
        }
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _annotations(self, citations: tuple[Citation, ...]) -> list[dict[str, Any]]:
        return [
            {
                "type": "url_citation",
                "url_citation": {
                    "url": document_path(self._collection, each.chunk.document_id),
                    "title": each.chunk.title,
                    "start_index": each.start,
                    "end_index": each.end,
                    **({"as_of": each.chunk.as_of} if each.chunk.as_of else {}),
                },
            }
            for each in citations
        ]


def _function(call: ToolCall) -> dict[str, str]:
    """What is called; a later piece has no name."""
    return {**({"name": call.name} if call.name else {}), "arguments": call.arguments}


def usage(counted: Usage, cost: Cost) -> dict[str, Any]:
    """OpenAI's usage object, with `cost` and `cost_details` in dollars as OpenRouter has them."""
    return {
        "prompt_tokens": counted.prompt_tokens,
        "completion_tokens": counted.completion_tokens,
        "total_tokens": counted.total_tokens,
        "prompt_tokens_details": {"cached_tokens": counted.cached_tokens},
        "cost": round(cost.total, 9),
        "cost_details": {
            "by_purpose": {k: round(v, 9) for k, v in cost.by_purpose.items()},
            "baseline": round(cost.baseline, 9),
            "all_frontier": round(cost.all_frontier, 9),
        },
    }


def decision(made: Decision) -> dict[str, Any]:
    """`POST /v1/route`: the decision alone."""
    return {"object": "route.decision", **made.record()}


def chunk(found: Chunk, collection: str) -> dict[str, Any]:
    """A search hit."""
    return {
        **dataclasses.asdict(found),
        "url": document_path(collection, found.document_id),
    }


def document_path(collection: str, document_id: str) -> str:
    """Where the cited document can be read, relative to the server."""
    return f"/v1/collections/{collection}/documents/{quote(document_id, safe='')}"
