"""`SCHEMES`: one file per way to store linear layers, chosen by the checkpoint's config."""

from typing import Any

from headrace.errors import StartupError
from headrace.quantization.base import LinearWeight, Scheme, Target
from headrace.quantization.mxfp4 import MXFP4
from headrace.quantization.none import Unquantized

__all__ = ["SCHEMES", "LinearWeight", "Scheme", "Target", "detect"]

SCHEMES: dict[str, type[Scheme]] = {
    "none": Unquantized,
    "mxfp4": MXFP4,
}


def detect(config: dict[str, Any]) -> str:
    """Name in SCHEMES of a model config's quantization. Raises StartupError if there is none."""
    method = (config.get("quantization_config") or {}).get("quant_method", "none")
    if method not in SCHEMES:
        raise StartupError(
            f"quantization_config.quant_method is {method!r}; supported are {', '.join(SCHEMES)}"
        )
    return method
