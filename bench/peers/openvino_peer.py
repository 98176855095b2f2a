"""OpenVINO GenAI on a GGUF file, in process: runs under a Python that has `openvino_genai`.

Reads one line of JSON per measurement, {"batches": [[prompt, ...], ...], "new_tokens": n}, and
answers each with one: {"seconds", "prompt_tokens", "tpot" (seconds), "texts"}. Batches run one
after another.
"""

import json
import sys
import time
from typing import Any

import openvino_genai


def scheduler() -> openvino_genai.SchedulerConfig:
    config = openvino_genai.SchedulerConfig()
    config.max_num_seqs = 64
    config.max_num_batched_tokens = 512
    config.cache_size = 2
    config.enable_prefix_caching = True
    config.dynamic_split_fuse = True
    return config


def generation(new_tokens: int) -> openvino_genai.GenerationConfig:
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = new_tokens
    config.ignore_eos = True
    config.do_sample = False
    config.apply_chat_template = False
    return config


def answer(pipeline: openvino_genai.LLMPipeline, order: dict[str, Any]) -> dict[str, Any]:
    config, results = generation(order["new_tokens"]), []
    begin = time.perf_counter()
    for batch in order["batches"]:
        results.append(pipeline.generate(batch, config))
    seconds = time.perf_counter() - begin
    encode = pipeline.get_tokenizer().encode
    prompts = [prompt for batch in order["batches"] for prompt in batch]
    texts = [text for result in results for text in result.texts]
    assert len(texts) == len(prompts)
    return {
        "seconds": seconds,
        "prompt_tokens": sum(encode(prompt).input_ids.shape[1] for prompt in prompts),
        "tpot": results[-1].perf_metrics.get_tpot().mean / 1000,
        "texts": texts,
    }


def main() -> None:
    pipeline = openvino_genai.LLMPipeline(sys.argv[1], "CPU", scheduler_config=scheduler())
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(pipeline, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
