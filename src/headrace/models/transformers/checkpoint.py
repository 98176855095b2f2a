"""From a folder to a transformers model in memory; what cannot be served is refused by name
before its weights are read.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from headrace.checkpoint.checkpoint import Checkpoint
from headrace.errors import CheckpointError, StartupError
from headrace.models.transformers.attention import NAME, OTHER_ATTENTION
from headrace.models.transformers.model import body_of

SERVED_LAYERS = {"full_attention", "sliding_attention"}


def read_config(
    checkpoint: Checkpoint, model_class: type[PreTrainedModel] | None, *, trust_remote_code: bool
) -> Any:
    """config.json as the model's own class reads it; `model_class` None: as transformers says."""
    own = checkpoint.config
    if own.get("quantization_config"):
        raise StartupError("quantization_config is supported for native architectures only")
    if checkpoint.adapter is not None:
        raise StartupError("adapters are merged into native architectures only")
    if model_class is not None and model_class.config_class is not None:
        return model_class.config_class.from_pretrained(checkpoint.path)
    model_type = own.get("model_type")
    if "auto_map" in own and model_type not in CONFIG_MAPPING and not trust_remote_code:
        raise StartupError(
            f"model type {model_type!r} is code that comes with the checkpoint; "
            "read it, and allow it to run with --trust-remote-code"
        )
    if model_type not in CONFIG_MAPPING and "auto_map" not in own:
        raise StartupError(f"model type {model_type!r} is not known to transformers either")
    with explained(checkpoint):
        return AutoConfig.from_pretrained(
            checkpoint.path, trust_remote_code=trust_remote_code, local_files_only=True
        )


def build(
    config: Any,
    model_class: type[PreTrainedModel] | None,
    *,
    trust_remote_code: bool,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """A model with random parameters. Raises StartupError if it is no causal language model, or
    has a list of its own of ways to compute attention."""
    kwargs: dict[str, Any] = {"attn_implementation": NAME, "dtype": dtype or config.dtype}
    try:
        if model_class is not None:
            return model_class._from_config(config, **kwargs)
        return AutoModelForCausalLM.from_config(
            config, trust_remote_code=trust_remote_code, **kwargs
        )
    except ValueError as error:
        raise StartupError(f"transformers: {first_line(error)}") from None
    except KeyError as error:
        if error.args != (NAME,):
            raise
        raise StartupError(OTHER_ATTENTION) from None


def load_parameters(
    model_class: Any, config: Any, checkpoint: Checkpoint, dtype: Any
) -> PreTrainedModel:
    """The model with its weights, on the CPU. Raises CheckpointError naming a tensor that is
    missing or does not fit."""
    with explained(checkpoint):
        model, found = model_class.from_pretrained(
            checkpoint.path,
            config=config,
            dtype=dtype,
            attn_implementation=NAME,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # names them
        )
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        raise CheckpointError(f"tensor {name}: expected shape {[*wanted]}, found {[*stored]}")
    if missing := sorted(found["missing_keys"]):
        others = f" (nor are {len(missing) - 1} others)" if missing[1:] else ""
        raise CheckpointError(f"tensor {missing[0]} is in none of the checkpoint's files{others}")
    assert isinstance(model, PreTrainedModel)
    return model


@contextmanager
def explained(checkpoint: Checkpoint) -> Iterator[None]:
    """What transformers has against the checkpoint, as a CheckpointError; what it prints besides
    stays away."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, UnpicklingError) as error:
        raise CheckpointError(f"{checkpoint.path}: transformers: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def refuse_unservable(model: PreTrainedModel, named: Sequence[str]) -> None:
    """Raises StartupError for a kind of model that the paged cache cannot serve, and when the
    checkpoint is of none of the architectures `named` in it, if it names any."""
    if named and type(model).__name__ not in named:
        raise StartupError(f"transformers' causal language model is {type(model).__name__}")
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ()) - SERVED_LAYERS
    if config.is_encoder_decoder or getattr(config, "add_cross_attention", False):
        raise StartupError("it has cross-attention, which the paged KV cache does not hold")
    if model._is_stateful:
        raise StartupError("it keeps recurrent state, which the paged KV cache does not hold")
    if kinds:
        raise StartupError(
            f"it has layers of {', '.join(sorted(kinds))}; "
            "the paged KV cache is for full and sliding-window attention"
        )
    if body_of(model) is model:
        raise StartupError("its head cannot be told from the rest")
