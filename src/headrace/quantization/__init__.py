"""`SCHEMES` read quantized checkpoints, `ON_LOAD` quantize others: one file per way to store linear
layers, chosen by the checkpoint's config and --quantize."""

from typing import Any

from headrace.errors import StartupError
from headrace.quantization.awq import AWQ
from headrace.quantization.base import LinearWeight, Scheme, Target
from headrace.quantization.bitsandbytes import BitsAndBytes
from headrace.quantization.compressed_tensors import CompressedTensors
from headrace.quantization.fp8 import FP8
from headrace.quantization.gptq import GPTQ
from headrace.quantization.mxfp4 import MXFP4
from headrace.quantization.none import Unquantized
from headrace.quantization.on_load import ON_LOAD, RoundedScheme

__all__ = ["ON_LOAD", "SCHEMES", "LinearWeight", "Scheme", "Target", "open_scheme"]

SCHEMES: dict[str, type[Scheme]] = {
    "none": Unquantized,
    "gptq": GPTQ,
    "awq": AWQ,
    "compressed-tensors": CompressedTensors,
    "fp8": FP8,
    "fbgemm_fp8": FP8,
    "bitsandbytes": BitsAndBytes,
    "mxfp4": MXFP4,
}
"""By quant_method of the checkpoint's quantization_config."""
UNSUPPORTED = {
    "exl2": "ExLlamaV2's layout mixes widths within a matrix; give a GPTQ or AWQ checkpoint",
    "marlin": "Marlin's layout is made for the tensor cores of NVIDIA GPUs; give the GPTQ "
    "checkpoint that it was made from",
}
"""What TGI takes and this server does not, and why."""


def open_scheme(config: dict[str, Any], target: Target, quantize: str | None) -> Scheme:
    """The scheme for a model's config and --quantize. Raises StartupError where they contradict
    each other, or are not supported."""
    if quantize in UNSUPPORTED:
        raise StartupError(f"--quantize {quantize}: {UNSUPPORTED[quantize]}")
    stored = config.get("quantization_config") or {"quant_method": "none"}
    method = stored["quant_method"]
    if method not in SCHEMES:
        reason = UNSUPPORTED.get(method, f"supported are {', '.join(SCHEMES)}")
        raise StartupError(f"quantization_config: quant_method is {method!r}; {reason}")
    if method == "none" and quantize is not None:
        if quantize not in ON_LOAD:
            raise StartupError(
                f"--quantize {quantize}: the checkpoint is not quantized; "
                f"while loading it can become {', '.join(ON_LOAD)}"
            )
        return RoundedScheme(ON_LOAD[quantize], target)
    if quantize is not None and quantize not in flags_of(stored):
        raise StartupError(
            f"--quantize {quantize}: the checkpoint is quantized by {method} already; "
            f"leave the flag away or give {' or '.join(flags_of(stored))}"
        )
    return SCHEMES[method](stored, target)


def flags_of(stored: dict[str, Any]) -> list[str]:
    """The values of --quantize that a checkpoint's quantization_config agrees with.

    As in TGI an AWQ checkpoint may be called gptq.
    """
    method = stored["quant_method"]
    if method == "bitsandbytes" and stored.get("load_in_4bit"):
        return [f"bitsandbytes-{stored.get('bnb_4bit_quant_type', 'fp4')}"]
    return {"awq": ["awq", "gptq"], "fbgemm_fp8": ["fp8"]}.get(method, [method])
