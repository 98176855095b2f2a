"""The embedded GGUF model as a Hugging Face folder in bfloat16, for engines that read only those.

python -m bench.export_bf16 FOLDER
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.checkpoint.embedded import embedded_model
from headrace.text.tokenizer import load_tokenizer
from headrace.weights.gguf import GGUFWeights
from headrace.weights.gguf_names import LAYER_NAMES

TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "clean_up_tokenization_spaces": False,
}


def export(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = open_checkpoint(embedded_model())
    assert checkpoint.gguf is not None
    weights = GGUFWeights(checkpoint.gguf)
    layers = range(checkpoint.config["num_hidden_layers"])
    names = [f"model.layers.{i}.{inner}.weight" for i in layers for inner in LAYER_NAMES]
    names += ["model.embed_tokens.weight", "model.norm.weight"]
    tensors = {n: weights.get(n).to(torch.bfloat16).contiguous() for n in names if weights.has(n)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        **checkpoint.config, "model_type": "llama", "dtype": "bfloat16", "bos_token_id": 1,
        "eos_token_id": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    load_tokenizer(checkpoint)._backend.save(str(folder / "tokenizer.json"))
    template = checkpoint.gguf.metadata["tokenizer.chat_template"]
    tokenizer = {**TOKENIZER_CONFIG, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


if __name__ == "__main__":
    export(Path(sys.argv[1]))
