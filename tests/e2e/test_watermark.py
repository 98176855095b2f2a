"""A marked text is found by transformers' detector; others are not."""

from typing import Any

import httpx
import pytest
import torch
from transformers import LlamaConfig, WatermarkDetector, WatermarkingConfig

from tests.e2e.server import ServerProcess

pytestmark = pytest.mark.e2e

VOCAB_SIZE = 49152


def test_only_marked_texts_are_found(server: ServerProcess) -> None:
    detector = WatermarkDetector(
        LlamaConfig(vocab_size=VOCAB_SIZE),
        device="cpu",
        watermarking_config=WatermarkingConfig(greenlist_ratio=0.5, bias=2.0),
    )
    scores: dict[bool, float] = {}
    for watermark in (True, False):
        parameters: dict[str, Any] = {
            "watermark": watermark, "do_sample": True, "seed": 5, "max_new_tokens": 100,
            "details": True,
        }  # fmt: skip
        body = {"inputs": "Once upon a time", "parameters": parameters}
        answer = httpx.post(f"{server.url}/generate", json=body, timeout=60).json()
        ids = [token["id"] for token in answer["details"]["tokens"]]
        scores[watermark] = float(detector(torch.tensor([ids]), return_dict=True).z_score[0])
    assert scores[True] > 4 > abs(scores[False])
