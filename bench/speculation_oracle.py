"""What speculation could give at most: all drafts right, as long as the costs of steps ask for.

One process without HTTP: the same requests without speculation, and twice with drafts out of what
came then, for which the controller chooses lengths by the costs that it measures (the first time it
may still learn them). Run by `speculation.py` with the server's flags: reads a line of JSON
{"streams": n, "bodies": [...]}, writes one with the ratios of paces, of the whole and of what comes
after the first tokens; the better of both times.
"""

import json
import sys
import time
from functools import partial
from typing import Any

from headrace import config
from headrace.checkpoint.checkpoint import Checkpoint, open_checkpoint
from headrace.engine.grammar import GrammarCompiler
from headrace.engine.grammar_jobs import GrammarJobs
from headrace.engine.request import Request
from headrace.engine.scheduler import Scheduler
from headrace.engine.speculation.proposal import Proposal
from headrace.engine.speculation.speculator import Speculator
from headrace.runner.build import build_executor
from headrace.serve.engine_process import load_vocabulary
from headrace.serve.locate import locate
from headrace.text.chat import load_chat_template
from headrace.text.tokenizer import load_tokenizer
from headrace.types import Add, EngineInfo, Executor, Grammar, SamplingParams, TokenEvent

MAX_DRAFTS = 64
NUM_TRIES = 2
Outputs = dict[int, list[int]]


class Oracle:
    """A `Proposer` that knows what will come."""

    prior_rates: tuple[float, ...] = (0.99,)

    def __init__(self) -> None:
        self.outputs: Outputs = {}

    def propose(self, request: Request, num_tokens: int) -> Proposal | None:
        done = len(request.token_ids) - request.num_prompt_tokens
        token_ids = self.outputs[request.request_id][done : done + num_tokens]
        return Proposal(token_ids, [0] * len(token_ids)) if token_ids else None

    def finish(self, request: Request) -> None: ...


class Requests:
    """Makes requests of the engine out of bodies."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tokenizer = load_tokenizer(checkpoint)
        template = load_chat_template(checkpoint, None, None)
        assert template is not None
        self._template = template

    def add(self, request_id: int, body: dict[str, Any]) -> Add:
        if "prompt" in body:
            prompt_ids = self._tokenizer.encode(body["prompt"]).ids
        else:
            text = self._template.render(body["messages"])
            prompt_ids = self._tokenizer.encode(text, False).ids
        schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
        params = SamplingParams(
            max_tokens=body["max_tokens"],
            temperature=body["temperature"],
            seed=body.get("seed", 0),
            stop_token_ids=frozenset(self._tokenizer.eos_token_ids),
            grammar=Grammar(kind="json", source=json.dumps(schema)) if schema else None,
        )
        return Add(request_id=request_id, prompt_ids=list(prompt_ids), params=params)


class Engine:
    """The engine's loop without its process."""

    def __init__(
        self,
        executor: Executor,
        info: EngineInfo,
        compiler: GrammarCompiler,
        speculator: Speculator | None,
    ) -> None:
        self._executor = executor
        self._grammars = GrammarJobs(compiler, MAX_DRAFTS if speculator else 0)
        self._scheduler = Scheduler(
            num_blocks=info.num_blocks,
            block_size=info.block_size,
            max_batch_prefill_tokens=info.max_batch_prefill_tokens,
            max_num_seqs=info.max_num_seqs,
            prefix_caching=False,
            distinguishes_prompts=info.distinguishes_prompts,
            speculator=speculator,
        )

    def run(self, adds: list[Add], streams: int) -> tuple[Outputs, float, float]:
        """What came, and the seconds of the whole and of decoding, added up over requests."""
        waiting, num_running, decoding = list(adds), 0, 0.0
        outputs: Outputs = {add.request_id: [] for add in adds}
        begin = time.perf_counter()
        while waiting or num_running:
            while waiting and num_running < streams:
                self._start(waiting.pop(0))
                num_running += 1
            for event in self._step():
                outputs[event.request_id] += event.token_ids
                if event.finish_reason is not None and event.timings is not None:
                    num_running -= 1
                    decoding += event.timings.decode_time
        return outputs, time.perf_counter() - begin, decoding

    def _start(self, add: Add) -> None:
        if add.params.grammar is not None:
            self._grammars.start(add)
        else:
            self._scheduler.add(add)

    def _step(self) -> list[TokenEvent]:
        compiled, failed = self._grammars.collect()
        assert not failed, failed
        for add, constraint in compiled:
            self._scheduler.add(add, constraint)
        if not self._scheduler.has_work:
            self._grammars.idle()
            return []
        self._grammars.settle()
        plan = self._scheduler.schedule()
        begin = time.perf_counter()
        output = self._executor.execute(plan)
        return self._scheduler.update(plan, output, time.perf_counter() - begin)


def main() -> None:
    settings, _ = config.parse(sys.argv[1:], prog="bench.speculation_oracle")
    checkpoint = open_checkpoint(locate(settings).path)
    executor, info = build_executor(settings, checkpoint, lambda *_: None)
    compiler = GrammarCompiler(partial(load_vocabulary, checkpoint), info.vocab_size)
    compiler.matcher(Grammar(kind="regex", source="yes"))  # reads the vocabulary
    requests, oracle = Requests(checkpoint), Oracle()
    plain = Engine(executor, info, compiler, None)
    informed = Engine(executor, info, compiler, Speculator(oracle, MAX_DRAFTS))
    num_requests = 0
    for line in sys.stdin:
        case = json.loads(line)
        adds = [requests.add(num_requests + i, body) for i, body in enumerate(case["bodies"])]
        num_requests += len(adds)
        oracle.outputs, whole, decoding = plain.run(adds, case["streams"])
        report = {"whole": 0.0, "decoding": 0.0}
        for _ in range(NUM_TRIES):
            outputs, least_whole, least_decoding = informed.run(adds, case["streams"])
            assert outputs == oracle.outputs
            report["whole"] = max(report["whole"], whole / least_whole)
            report["decoding"] = max(report["decoding"], decoding / least_decoding)
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
