"""What becomes of every causal language model that transformers knows, as a tiny random checkpoint.

    python -m tests.models.census [NAME ...] > docs/architectures.md

For each name in transformers' registry: loaded here and by transformers, and the greedy tokens
compared. Six minutes of one core; without names the table is printed, with some their lines only.
"""

import argparse
import contextlib
import faulthandler
import multiprocessing
import sys
import tempfile
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from headrace.errors import StartupError
from headrace.models import find_architecture
from tests.models.driver import drive

SECONDS = 120
MAX_PARAMETERS = 40_000_000
PROMPTS = [[5, 9, 17, 3, 44], [7] * 3 + [61, 23, 90, 11, 38, 2, 14, 77, 31]]
NUM_TOKENS = 8
OUTCOMES = {
    "native": "native, tokens equal",
    "fallback": "on transformers' code, tokens equal",
    "refused": "refused",
    "no oracle": "untested: no tiny checkpoint that transformers runs could be made",
    "differs": "TOKENS DIFFER",
    "crash": "CRASH",
}
SMALL = {
    "vocab_size": 199, "hidden_size": 64, "n_embd": 64, "d_model": 64, "emb_dim": 64,
    "dim": 64, "word_embed_proj_dim": 64, "embedding_size": 64, "intermediate_size": 96,
    "ffn_dim": 96, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "ffn_hidden_size": 96,
    "dim_ff": 96, "dff": 96, "d_inner": 96, "n_inner": 96, "num_layers": 3, "n_layers": 3,
    "n_layer": 3, "num_hidden_layers": 3, "encoder_layers": 1, "decoder_layers": 3,
    "num_decoder_layers": 3, "num_encoder_layers": 1, "num_attention_heads": 4, "num_heads": 4,
    "n_head": 4, "n_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "num_decoder_attention_heads": 4, "num_encoder_attention_heads": 4, "num_key_value_heads": 2,
    "num_kv_heads": 2, "head_dim": 16, "dim_head": 16, "d_head": 16,
    "attention_head_dim": 16, "kv_channels": 16, "max_position_embeddings": 512,
    "n_positions": 512, "max_seq_len": 512, "n_ctx": 512, "max_source_positions": 64,
    "max_target_positions": 512, "num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4,
    "moe_num_experts": 4, "num_experts_per_tok": 2, "moe_k": 2, "moe_topk": 2,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32, "expert_ffn_hidden_size": 32, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 24, "kv_lora_rank": 32,
    "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "rotary_dim": 8,
    "sliding_window": 8, "image_size": 32, "patch_size": 16, "vocab_size_per_layer_input": 199,
    "hidden_size_per_layer_input": 8, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 8,
    "state_size": 8, "mamba_num_heads": 4, "mamba_head_dim": 32,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1,
}  # fmt: skip
"""By the names that configs have for it."""


@dataclass(frozen=True)
class Result:
    """What became of one architecture."""

    outcome: str
    reason: str = ""


def small_config(config_class: Any) -> Any:
    """With small sizes wherever the class has such a field, in the parts of a config too."""
    default = config_class()
    changes: dict[str, Any] = {
        name: value
        for name, value in SMALL.items()
        if name in vars(default) and isinstance(vars(default)[name], int | None)
    }
    for name, part_class in (getattr(config_class, "sub_configs", None) or {}).items():
        if getattr(default, name, None) is not None and part_class is not transformers.AutoConfig:
            changes[name] = small_config(part_class).to_dict()
    if "kv_lora_rank" in vars(default):  # latent attention, which has no groups of heads
        changes["num_key_value_heads"] = changes["num_attention_heads"]
        changes["head_dim"] = changes["qk_rope_head_dim"]
    if "is_decoder" in vars(default):
        changes["is_decoder"] = True
    for attempt in (changes, {k: v for k, v in changes.items() if k not in GUESSED}):
        with contextlib.suppress(Exception):
            return config_class(**attempt)
    return config_class(**_acceptable(config_class, changes))


GUESSED = ("head_dim", "num_key_value_heads", "sliding_window", "rotary_dim")
"""Fields that some configs derive and check."""


def _acceptable(config_class: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """Those that the class's own checks allow, one after another."""
    accepted: dict[str, Any] = {}
    for name, value in changes.items():
        with contextlib.suppress(Exception):
            config_class(**accepted, **{name: value})
            accepted[name] = value
    return accepted


def make_random(model_type: str, folder: Path) -> Any:
    """Save a random model; returns it."""
    torch.manual_seed(0)
    config = small_config(CONFIG_MAPPING[model_type])
    model_class = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type])
    text = config.get_text_config(decoder=True)
    config = config if isinstance(config, model_class.config_class) else text
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in model_class(config).parameters())
    if size > MAX_PARAMETERS:
        raise ValueError(f"still has {size:,} parameters")
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model


def greedy(model: Any) -> list[list[int]]:
    """What transformers makes of it."""
    answers = []
    for prompt in PROMPTS:
        output = model.generate(
            torch.tensor([prompt]), max_new_tokens=NUM_TOKENS, do_sample=False,
            eos_token_id=-1, pad_token_id=0,
        )  # fmt: skip
        answers.append(output[0, len(prompt) :].tolist())
    return answers


def examine(model_type: str, folder: Path) -> Result:
    try:
        model = make_random(model_type, folder)
    except Exception as error:
        return Result("no oracle", described(error))
    try:
        tokens = drive(folder).greedy(PROMPTS, NUM_TOKENS)
    except StartupError as error:
        reason = first_line(error).rpartition("transformers' code: ")[2]
        return (
            without_oracle(model, reason)
            if reason.startswith("it raises")
            else Result("refused", reason)
        )
    except Exception as error:
        return Result("crash", described(error))
    try:
        expected = greedy(model)
    except Exception as error:
        return Result("no oracle", described(error))
    if tokens != expected:
        return Result("differs", f"{tokens} for {expected}")
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    is_native = find_architecture({"architectures": [architecture]}) is not None
    return Result("native" if is_native else "fallback")


def without_oracle(model: Any, reason: str) -> Result:
    """Whether transformers' own code raises as well."""
    try:
        greedy(model)
    except Exception as error:
        return Result("no oracle", described(error))
    return Result("refused", reason)


def described(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:240]


def _answer(model_type: str, connection: Connection) -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        result = examine(model_type, Path(folder))
        reason = result.reason.replace(folder, "CHECKPOINT")
        connection.send(Result(result.outcome, reason))


def in_a_process(model_type: str) -> Result:
    """Some code ends its process, and some never ends."""
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=_answer, args=(model_type, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(SECONDS) else Result("crash", f"over {SECONDS} s")
    except EOFError:
        return Result("crash", f"exit code {process.exitcode}")
    finally:
        process.kill()
        process.join()


def table(results: dict[str, Result]) -> str:
    """As a page of the documentation."""
    counts = {outcome: [r.outcome for r in results.values()].count(outcome) for outcome in OUTCOMES}
    lines = ["| model type | architecture | what becomes of it |", "|---|---|---|"]
    for model_type, result in sorted(results.items()):
        architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
        reason = result.reason.replace("|", "\\|")
        said = OUTCOMES[result.outcome] + (f": {reason}" if reason else "")
        lines.append(f"| {model_type} | {architecture} | {said} |")
    summary = [f"- {OUTCOMES[outcome]}: {count}" for outcome, count in counts.items() if count]
    head = PAGE.format(version=transformers.__version__, count=len(results))
    return "\n".join([head, *summary, "", *lines])


PAGE = """# Architectures

Every causal language model that transformers {version} knows ({count} model types), as a tiny
random checkpoint: loaded by Headrace, and its greedy tokens compared with transformers' own. This
page is written by `python -m tests.models.census`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    names = parser.parse_args().names or list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    faulthandler.enable()
    torch.set_num_threads(1)
    results = {}
    for name in names:
        results[name] = in_a_process(name)
        print(name, results[name].outcome, results[name].reason, file=sys.stderr, flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
