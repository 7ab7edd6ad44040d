"""What a model answers, put together from the steps in which it comes."""

from __future__ import annotations

from dataclasses import dataclass, field

from serve_app.domain import Delta, FinishReason, Refusal, ToolCall
from serve_app.orchestration.run import Run


@dataclass(slots=True)
class Reply:
    """An answer as far as it has come."""

    finish_reason: FinishReason = "stop"
    _texts: list[str] = field(default_factory=list)
    _refusals: list[str] = field(default_factory=list)
    _calls: dict[int, ToolCall] = field(default_factory=dict)

    def take(self, delta: Delta) -> None:
        """One more step."""
        self._texts.append(delta.text)
        self._refusals.append(delta.refusal)
        for call in delta.tool_calls:
            known = self._calls.get(call.index)
            self._calls[call.index] = known + call if known else call
        self.finish_reason = delta.finish_reason or self.finish_reason

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def refusal(self) -> str:
        """Why the model declines; empty if it does not."""
        return "".join(self._refusals)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(self._calls.values())


def send(run: Run, delta: Delta, *, hold: bool) -> None:
    """Pass a step on to the client. Of an answer that is held back only the calls leave."""
    if not hold:
        run.emit(delta.text)
        if delta.refusal:
            run.emit(Refusal(delta.refusal))
    for call in delta.tool_calls:
        run.emit(call)
