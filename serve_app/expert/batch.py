"""Many conversations answered offline by vLLM, with an adapter or without. Loads vLLM late."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serve_app.errors import SettingsError
from serve_app.expert.admission import Limits, admit
from serve_app.expert.base import Base
from serve_app.expert.control_tokens import ControlTokens
from serve_app.expert.engine import arguments
from serve_app.jsonl import objects
from serve_app.settings import ExpertSettings

_WANTED = '{"id", "messages"}'


@dataclass(frozen=True, slots=True)
class Request:
    """A row to answer: its id, and messages of the OpenAI API, the last one not the assistant's."""

    id: str | int
    messages: list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Response:
    """An answered row.

    Attributes:
        seconds: From the start of the batch it was answered in to the batch's end.
    """

    id: str | int
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


def read_requests(path: Path) -> list[Request]:
    """Raises `SettingsError` for a bad row: names file and line, says what is wanted."""
    requests: dict[str | int, Request] = {}
    for number, row in objects(path, _WANTED):
        request = _request(f"{path}:{number}", row)
        if request.id in requests:
            raise SettingsError(f"{path}:{number}: the id {request.id!r} is taken already")
        requests[request.id] = request
    return list(requests.values())


def answered(path: Path) -> set[str | int]:
    """Ids that an earlier run wrote; a line that it was killed in is cut off."""
    if not path.exists():
        return set()
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    try:
        return {json.loads(line)["id"] for line in whole.splitlines()}
    except (ValueError, KeyError, TypeError):
        raise SettingsError(
            f"{path} exists and is not what `trivium generate` writes; name another --output"
        ) from None


class Engine:
    """vLLM in this process, for the base and perhaps an adapter. Its environment must be set.

    Raises:
        SettingsError: The adapter cannot be used.
    """

    def __init__(self, base: Base, adapter: Path | None, settings: ExpertSettings) -> None:
        rank = admit(adapter, base, Limits()).rank if adapter else 0
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        from serve_app.expert import rendering
        from serve_app.expert.punica import InlineExecutor

        rendering.install()
        engine = arguments(settings)
        if settings.accelerator == "cpu":
            engine.setdefault("distributed_executor_backend", InlineExecutor)
        if adapter:
            # vLLM knows a few bounds of the rank: powers of two, of which 8 is the least.
            bound = max(8, 1 << (rank - 1).bit_length())
            engine |= {"enable_lora": True, "max_lora_rank": bound}
        self._size = int(settings.engine.get("max_num_seqs", 32))
        self._llm = LLM(model=str(base.folder), **engine)
        self._adapter = LoRARequest(adapter.name, 1, str(adapter.resolve())) if adapter else None

    def answers(
        self,
        requests: Sequence[Request],
        max_tokens: int,
        *,
        adapted: bool,
        structured: Mapping[str, Any] | None = None,
    ) -> Iterator[list[Response]]:
        """Greedily decoded, a batch at a time.

        Args:
            adapted: With the adapter; else by the base alone.
            structured: What the engine enforces, as `Contract.structured` has it.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        enforced = StructuredOutputsParams(**structured) if structured else None
        sampling = SamplingParams(
            temperature=0.0, max_tokens=max_tokens, structured_outputs=enforced
        )
        # The first alone: what all prompts begin with is then computed once, not by a whole batch.
        for start in (0, *range(1, len(requests), self._size)):
            batch = requests[start : start + (self._size if start else 1)]
            began = time.monotonic()
            outputs = self._llm.chat(
                [each.messages for each in batch],
                sampling,
                use_tqdm=False,
                lora_request=self._adapter if adapted else None,
            )
            seconds = round(time.monotonic() - began, 3)
            yield [
                _response(request.id, output, seconds)
                for request, output in zip(batch, outputs, strict=True)
            ]


def write(path: Path, responses: Sequence[Response]) -> None:
    """Add a batch to the output, so that it is kept whatever happens next."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in responses)


def _response(number: str | int, output: Any, seconds: float) -> Response:
    answer = output.outputs[0]
    return Response(
        id=number,
        text=answer.text,
        finish_reason=answer.finish_reason or "stop",
        prompt_tokens=len(output.prompt_token_ids),
        completion_tokens=len(answer.token_ids),
        seconds=seconds,
    )


def _request(place: str, row: Mapping[str, Any]) -> Request:
    try:
        if not isinstance(row["id"], str | int):
            raise TypeError
        # As in serving: templates of small models know no developer role.
        messages = [
            {
                "role": "system" if m["role"] == "developer" else str(m["role"]),
                "content": str(m["content"]),
            }
            for m in row["messages"]
        ]
        asked = bool(messages) and messages[-1]["role"] != "assistant"
    except (ValueError, KeyError, TypeError):
        asked = False
    if not asked:
        raise SettingsError(f"{place}: not a row of {_WANTED} that ends with a question")
    return Request(row["id"], messages)


def refuse_long(
    requests: Sequence[Request], base: Base, settings: ExpertSettings, max_tokens: int
) -> None:
    """Say so before the engine is loaded.

    Raises:
        SettingsError: A row does not fit the model's context beside its answer.
    """
    room = int(settings.engine.get("max_model_len", 0)) - max_tokens
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    control = ControlTokens.of(tokenizer)
    for each in requests:
        text = tokenizer.apply_chat_template(
            control.turns(each.messages), tokenize=False, add_generation_prompt=True
        )
        length = len(control.encoded(tokenizer, text))
        if 0 < room < length:
            raise SettingsError(
                f"row {each.id!r} has {length:,} tokens and the model takes {room:,} beside the "
                "answer: shorten it, or raise expert.engine.max_model_len"
            )
