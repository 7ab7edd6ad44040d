"""What a caller's bounds and `response_format` mean for an answer that no engine writes.

A quotation or a plain sentence is ended at the caller's stop sequences and bound on tokens by rule.
Neither is JSON: where JSON was asked for, that there is no answer is a refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from serve_app.domain import Citation, FinishReason, Refusal
from serve_app.orchestration.run import Question, Run
from serve_app.orchestration.state import State
from serve_app.stopping import Stop


def bounded(
    question: Question, text: str, citations: Sequence[Citation] = ()
) -> tuple[str, tuple[Citation, ...], FinishReason]:
    """A text within the caller's stop sequences and bound, its citations, and why it ends."""
    stop = Stop(question.options.get("stop") or (), question.max_tokens)
    kept = stop.whole(text)
    left = tuple(
        replace(each, end=min(each.end, len(kept))) for each in citations if each.start < len(kept)
    )
    return kept, left, stop.reason or "stop"


def said(run: Run, question: Question, text: str, citations: Sequence[Citation] = ()) -> State:
    """A text of our own as the answer."""
    kept, left, reason = bounded(question, text, citations)
    run.emit(kept)
    return {"text": kept, "citations": left, "finish_reason": reason, "error": None}


def unanswered(run: Run, question: Question, text: str) -> State:
    """A sentence that there is no answer, and why."""
    if not question.in_json:
        return said(run, question, text)
    run.emit(Refusal(text))
    return {"text": "", "refusal": text, "citations": (), "finish_reason": "stop", "error": None}
