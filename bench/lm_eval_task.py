"""Run lm-eval over /v1/completions on a task of our own and compare with transformers.

    pip install 'lm-eval[api,hf]'
    python -m bench.lm_eval_task --model FOLDER [--url http://127.0.0.1:8080]

Each question is a text to complete and some ways to do so. lm-eval's `local-completions` scores
them on the server, its `hf` scores them with transformers; log-likelihoods and answers must agree.
Without --url a server is started on the model; --model is also where the tokenizer is.
"""

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

QUESTIONS = [
    ("The capital of France is", [" Paris", " Rome", " Berlin"], 0),
    ("Water freezes at zero degrees", [" Fahrenheit", " Celsius"], 1),
    ("One, two, three,", [" four", " seven", " nine"], 0),
    ("The opposite of hot is", [" warm", " cold", " dry"], 1),
    ("A dog has four", [" wheels", " legs", " wings"], 1),
    ("The sun rises in the", [" west", " north", " east"], 2),
]
TOLERANCE = 1e-2
"""Of a log-likelihood, summed over the tokens of an answer."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(model: str) -> Iterator[str]:
    """A server on the model, stopped at the end."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "headrace", "serve", "--hostname", "127.0.0.1",
               "--port", str(port), "--model-id", model, "--dtype", "float32"]  # fmt: skip
    process = subprocess.Popen(command)
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"{url}/health")
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def task(folder: Path) -> dict[str, Any]:
    """lm-eval's description of the questions, which it reads from a file in `folder`."""
    path = folder / "questions.jsonl"
    rows = [{"question": q, "choices": c, "answer": a} for q, c, a in QUESTIONS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "task": "headrace_questions",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }


def evaluate(model: str, arguments: dict[str, Any]) -> tuple[list[tuple[float, bool]], float]:
    """(log-likelihood, is greedy) of all answers in order, and the accuracy."""
    import lm_eval

    with tempfile.TemporaryDirectory() as folder:
        results = lm_eval.simple_evaluate(
            model=model, model_args=arguments, tasks=[task(Path(folder))], bootstrap_iters=0
        )
    samples = sorted(results["samples"]["headrace_questions"], key=lambda s: s["doc_id"])
    scores = [(float(r[0]), bool(r[1])) for s in samples for r in s["filtered_resps"]]
    return scores, results["results"]["headrace_questions"]["acc,none"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--url", help="of a server that runs already")
    options = parser.parse_args()

    def over(url: str) -> tuple[list[tuple[float, bool]], float]:
        arguments = {"model": "tgi", "base_url": f"{url}/v1/completions",
                     "tokenizer_backend": "huggingface", "tokenizer": options.model}  # fmt: skip
        return evaluate("local-completions", arguments)

    if options.url:
        served, accuracy = over(options.url)
    else:
        with server(options.model) as url:
            served, accuracy = over(url)
    reference, expected_accuracy = evaluate(
        "hf", {"pretrained": options.model, "device": "cpu", "dtype": "float32"}
    )
    pairs = list(zip(served, reference, strict=True))
    worst = max(abs(ours[0] - theirs[0]) for ours, theirs in pairs)
    same = all(ours[1] == theirs[1] for ours, theirs in pairs)
    print(f"{len(pairs)} answers, largest difference of a log-likelihood {worst:.2e}")
    print(
        f"greedy flags equal: {same}; accuracy {accuracy:.3f}, transformers {expected_accuracy:.3f}"
    )
    return 0 if worst < TOLERANCE and same and accuracy == expected_accuracy else 1


if __name__ == "__main__":
    sys.exit(main())
