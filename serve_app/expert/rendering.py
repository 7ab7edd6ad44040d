"""vLLM's own rendering of conversations, to which what somebody typed is text. Loads vLLM."""

from __future__ import annotations

import asyncio
from typing import Any

from vllm.renderers.hf import HfRenderer
from vllm.renderers.registry import RENDERER_REGISTRY

from serve_app.expert.control_tokens import ControlTokens


class TextRenderer(HfRenderer):  # type: ignore[misc]  # vLLM is untyped here
    """Renders with tokenizers of transformers; see `control_tokens`."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        self._control = ControlTokens.of(tokenizer) if tokenizer else ControlTokens(())

    def render_messages(self, messages: Any, params: Any) -> Any:
        marked = self._control.turns(messages)
        conversation, prompt = super().render_messages(marked, params)
        return conversation, self._as_tokens(prompt)

    async def render_messages_async(self, messages: Any, params: Any) -> Any:
        marked = self._control.turns(messages)
        conversation, prompt = await super().render_messages_async(marked, params)
        loop = asyncio.get_running_loop()
        return conversation, await loop.run_in_executor(self._executor, self._as_tokens, prompt)

    def _as_tokens(self, prompt: Any) -> Any:
        """The prompt as it is; one with typed control tokens as the tokens of its pieces."""
        pieces = self._control.pieces(prompt.get("prompt") or "")
        if len(pieces) == 1:
            return prompt
        tokens = self._control.encoded(self.get_tokenizer(), prompt["prompt"])
        return {**prompt, "prompt": "".join(pieces), "prompt_token_ids": tokens}


def install() -> None:
    """Let every engine that starts in this process render so."""
    RENDERER_REGISTRY.renderers["hf"] = (TextRenderer.__module__, TextRenderer.__name__)
