"""One model in many formats, made in a working folder: by `headrace quantize`, by the writers of
the tests (the published formulas, rounding to nearest) and, as GGUF, by llama.cpp's own tool."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.fidelity import text
from headrace.checkpoint.embedded import embedded_model
from tests.quantization.formats import FORMATS, Format, awq, compressed_tensors, fp8

CALIBRATION_BEGIN = 60_000
"""Characters of the text that no measurement reads behind."""

QUANTIZE: dict[str, list[str]] = {
    "GPTQ, 4 bits, groups of 64": ["--group-size", "64"],
    "GPTQ, 4 bits with zero points, groups of 32": ["--group-size", "32", "--no-symmetric"],
    "GPTQ, 8 bits, groups of 64": ["--group-size", "64", "--bits", "8"],
    "compressed-tensors W4A16, groups of 64": ["--method", "int4", "--group-size", "64"],
}
"""Arguments of `headrace quantize`."""


def everywhere(form: Format) -> Format:
    """The format without the layers that tests let it skip."""
    config = {**form.config}
    config |= {"ignore": ["lm_head"]} if "ignore" in config else {}
    return replace(form, config=config, skipped=())


def per_channel(form: str, kind: str) -> Format:
    arguments = {"num_bits": 8, "type": kind, "strategy": "channel"}
    return everywhere(compressed_tensors(form, **arguments))


WRITTEN: dict[str, Format] = {
    "AWQ, groups of 64": awq(64),
    "compressed-tensors W8A16": per_channel("pack-quantized", "int"),
    "compressed-tensors W8A8": per_channel("int-quantized", "int"),
    "compressed-tensors FP8": per_channel("float-quantized", "float"),
    "FP8, one scale a tensor": fp8(None),
    "FP8, blocks of 128 × 128": fp8((128, 128)),
    "bitsandbytes NF4": everywhere(FORMATS["bitsandbytes-nf4"]),
    "bitsandbytes NF4, double": everywhere(FORMATS["bitsandbytes-nf4-nested"]),
    "bitsandbytes FP4": everywhere(FORMATS["bitsandbytes-fp4"]),
    "bitsandbytes LLM.int8": FORMATS["bitsandbytes-8bit"],
}
GGUF = ("Q4_0", "Q4_K_M", "Q5_0", "Q5_1", "Q5_K_M", "Q6_K", "Q8_0")


def copies(floats: Path, work: Path, llama_folder: Path | None) -> dict[str, Path]:
    """All of them by name, made unless they are there; GGUF files need `llama_folder`."""
    paths = {name: work / name.replace("/", "-") for name in (*QUANTIZE, *WRITTEN)}
    for name, arguments in QUANTIZE.items():
        if not (paths[name] / "config.json").exists():
            quantize(floats, paths[name], arguments, work / "calibration.txt")
    for name, form in WRITTEN.items():
        if not (paths[name] / "config.json").exists():
            write(floats, paths[name], form)
    for kind in GGUF if llama_folder else ():
        paths[f"GGUF {kind}"] = path = work / f"{kind}.gguf"
        if not path.exists():
            tool = [f"{llama_folder}/llama-quantize", "--allow-requantize"]
            subprocess.run([*tool, embedded_model(), path, kind], check=True, capture_output=True)
    return paths


def quantize(floats: Path, output: Path, arguments: list[str], calibration: Path) -> None:
    calibration.write_text(text()[CALIBRATION_BEGIN:])
    command = [sys.executable, "-m", "headrace", "quantize", floats, output, *arguments]
    command += ["--calibration", calibration, "--sequence-length", "256", "--sequences", "32"]
    subprocess.run(list(map(str, command)), check=True)


def write(floats: Path, output: Path, form: Format) -> None:
    shutil.copytree(floats, output, ignore=shutil.ignore_patterns("config.json", "*.safetensors"),
                    dirs_exist_ok=True)  # fmt: skip
    stored: dict[str, Tensor] = {}
    for name, tensor in load_file(floats / "model.safetensors").items():
        if tensor.dim() == 2 and ".layers." in name:
            tensors, _ = form.write(tensor.float())
            prefix = name.removesuffix("weight")
            stored |= {
                prefix + suffix: part.clone().contiguous() for suffix, part in tensors.items()
            }
        else:
            stored[name] = tensor
    save_file(stored, output / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((floats / "config.json").read_text())
    (output / "config.json").write_text(json.dumps(config | {"quantization_config": form.config}))
