"""OpenVINO GenAI with and without its prompt lookup: runs under a Python that has `openvino_genai`.

    python -m bench.openvino_lookup GGUF NUM_DRAFTS

NUM_DRAFTS 0 is no lookup. Run by `speculation.py`: reads a line of JSON {"streams": n, "prompts":
[...], "max_tokens": n, "temperature": t, "seed": n}, writes one {"texts", "num_tokens", "seconds"}.
"""

import json
import sys
import time

import openvino_genai

from bench.peers.openvino_peer import scheduler

MAX_NGRAM = 3


def main() -> None:
    num_drafts = int(sys.argv[2])
    lookup = {"prompt_lookup": True} if num_drafts else {}
    pipeline = openvino_genai.LLMPipeline(
        sys.argv[1], "CPU", scheduler_config=scheduler(), **lookup
    )
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = case["max_tokens"]
        config.apply_chat_template = False
        config.do_sample = case["temperature"] > 0
        if config.do_sample:
            config.temperature, config.rng_seed = case["temperature"], case["seed"] % 2**31
        if num_drafts:
            config.num_assistant_tokens, config.max_ngram_size = num_drafts, MAX_NGRAM
        texts, num_tokens = [], 0
        begin = time.perf_counter()
        for first in range(0, len(case["prompts"]), case["streams"]):
            result = pipeline.generate(case["prompts"][first : first + case["streams"]], config)
            texts += result.texts
            num_tokens += result.perf_metrics.get_num_generated_tokens()
        seconds = time.perf_counter() - begin
        print(
            json.dumps({"texts": texts, "num_tokens": num_tokens, "seconds": seconds}), flush=True
        )


if __name__ == "__main__":
    main()
