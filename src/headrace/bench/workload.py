"""Options -> the requests to send, each a pure function of its number. Sends nothing."""

import random
from dataclasses import dataclass
from typing import Any

import orjson

from headrace.bench.options import Options
from headrace.bench.prompts import FilePrompts, Prompt, PromptSource, SyntheticPrompts

ROUTES = {"completions": "/completions", "chat": "/chat/completions"}


@dataclass(frozen=True, slots=True)
class Request:
    """One POST; `cancel_after` counts chunks with text."""

    prompt_number: int
    route: str
    body: bytes
    cancel_after: int | None


@dataclass(frozen=True, slots=True)
class Workload:
    """All requests of one invocation to one model."""

    options: Options
    prompts: PromptSource
    model: str

    @classmethod
    def create(cls, options: Options, model: str) -> "Workload":
        """Raises `BenchError` when the file of prompts cannot be used."""
        if options.prompts:
            return cls(options, FilePrompts.read(options.prompts, options.api), model)
        synthetic = SyntheticPrompts(
            options.prompt_tokens, options.shared_prefix_tokens, options.seed
        )
        return cls(options, synthetic, model)

    def request(self, number: int) -> Request:
        """Request `number`; with --check-determinism an even one and the next share the prompt."""
        options = self.options
        prompt_number = number // 2 if options.check_determinism else number
        rng = random.Random(f"{options.seed} request {number}")
        cancelled = rng.random() < options.cancel_share
        body: dict[str, Any] = {
            "model": self.model,
            **self._prompt_fields(self.prompts(prompt_number)),
            "max_tokens": options.max_tokens,
            "temperature": options.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._optional_fields(number),
            **options.extra_body,
        }
        return Request(
            prompt_number=prompt_number,
            route=ROUTES[options.api],
            body=orjson.dumps(body),
            cancel_after=rng.randrange(1, options.max_tokens) if cancelled else None,
        )

    def _prompt_fields(self, prompt: Prompt) -> dict[str, Any]:
        if self.options.api == "completions":
            return {"prompt": prompt}
        if isinstance(prompt, str):
            return {"messages": [{"role": "user", "content": prompt}]}
        return {"messages": prompt}

    def _optional_fields(self, number: int) -> dict[str, Any]:
        options = self.options
        fields: dict[str, Any] = {}
        if options.temperature > 0:
            fields["seed"] = options.seed + number
        if options.ignore_eos:
            fields |= {"ignore_eos": True, "min_tokens": options.max_tokens}
        if options.count_tokens:
            fields["logprobs"] = True if options.api == "chat" else 1
        return fields
