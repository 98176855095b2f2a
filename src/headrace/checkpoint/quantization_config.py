"""How a checkpoint says that it is quantized, in all its spellings, brought to one.

Normal form: the `quantization_config` of transformers, with `bits`, `group_size`, `version` and
`checkpoint_format` under these names for GPTQ and AWQ.
"""

from pathlib import Path
from typing import Any

from headrace.checkpoint.safetensors import read_json
from headrace.errors import CheckpointError

FIELDS = ("quantization_config", "compression_config")
"""Of config.json; the second is compressed-tensors' older name."""
FILES = ("quantize_config.json", "quant_config.json")
"""AutoGPTQ's and AutoAWQ's own files, beside a config.json that is silent."""
NAMES = {"w_bit": "bits", "q_group_size": "group_size", "format": "checkpoint_format"}
"""AutoAWQ's and GPTQModel's names of a field."""


def find_quantization(config: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """The quantization_config of a checkpoint in normal form, None if it has none.

    Raises CheckpointError for one that is not an object or names no method.
    """
    for field in FIELDS:
        if (found := config.get(field)) is not None:
            return _normalize(found, f"{folder / 'config.json'}: {field}")
    for name in FILES:
        if (folder / name).exists():
            return _normalize(read_json(folder / name), str(folder / name))
    return None


def _normalize(found: Any, source: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise CheckpointError(f"{source}: expected an object, found {found!r}")
    method = found.get("quant_method") or _method(found)
    if not isinstance(method, str):
        raise CheckpointError(f"{source}: expected quant_method, found {', '.join(found)}")
    names = NAMES if method in ("gptq", "awq") else {}
    return {names.get(name) or name: found[name] for name in found} | {"quant_method": method}


def _method(found: dict[str, Any]) -> str | None:
    """What files older than quant_method are, by the fields that only they have."""
    if str(found.get("version", "")).lower() == "gemm" or "zero_point" in found:
        return "awq"
    if "config_groups" in found:
        return "compressed-tensors"
    if "load_in_4bit" in found or "load_in_8bit" in found:
        return "bitsandbytes"
    return "gptq" if "bits" in found or "w_bit" in found else None
