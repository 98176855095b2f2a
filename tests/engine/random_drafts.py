"""Drafts for tests: as many as may come, right and wrong, whatever they cost."""

import random

from headrace.engine.request import Request
from headrace.engine.speculation.speculator import Speculator
from headrace.types import StepPlan


class RandomDrafts(Speculator):
    """In place of the controller. `outputs`: by request id, all tokens that will come; requests
    that are missing get random ones. Some drafts are longer than what is left of the request."""

    def __init__(self, outputs: dict[int, list[int]], vocab_size: int, seed: int) -> None:
        self.outputs = outputs
        self.vocab_size = vocab_size
        self.chance = random.Random(seed)
        self.has_executor = True

    def observe(self, num_tokens: int, duration: float, *, has_prompts: bool = False) -> None: ...

    def observe_drafting(self, num_drafts: dict[int, int], duration: float) -> None: ...

    def finish(self, request: Request) -> None: ...

    def draft(self, requests: list[Request], num_prompt_tokens: int, room: int) -> None:
        for request in requests:
            done = len(request.token_ids) - request.num_prompt_tokens
            right = self.outputs.get(request.request_id, [])[done:]
            wrong = [self.chance.randrange(self.vocab_size) for _ in range(4)]
            drafts = request.executor_draft_ids or right[: self.chance.randrange(6)] + wrong
            limit = request.max_length - len(request.token_ids) - 1
            request.draft_ids = drafts[: min(limit, self.chance.randrange(8))]

    def least_probability(self, request: Request) -> float:
        return self.chance.random()

    @property
    def asks_executor(self) -> bool:
        return self.has_executor and self.chance.random() < 0.3

    def num_drafts_to_ask(self, plan: StepPlan, rows: list[Request | None]) -> dict[int, int]:
        sampled = [index for index, count in enumerate(plan.num_samples) if count]
        return {index: self.chance.randrange(1, 4) for index in sampled}
