from pathlib import Path

import psutil
import pytest
import torch

from headrace.config import Settings
from headrace.distributed.ranks import OneRank
from headrace.errors import StartupError
from headrace.kernels import TorchKernels
from headrace.runner import device
from headrace.runner.cgroup import ControlGroup

CPU = torch.device("cpu")


def test_types_default_to_float32_on_the_cpu_and_the_checkpoints_on_cuda() -> None:
    cuda = torch.device("cuda", 0)
    assert device.choose_dtype(Settings(), "bfloat16", CPU) == torch.float32
    assert device.choose_dtype(Settings(), "bfloat16", cuda) == torch.bfloat16
    assert device.choose_dtype(Settings(), None, cuda) == torch.float16
    assert device.choose_dtype(Settings(dtype="float16"), "bfloat16", CPU) == torch.float16


def test_prompts_have_an_arithmetic_of_their_own_where_all_ranks_can() -> None:
    class MixedRanks(OneRank):
        def minimum(self, value: int) -> int:
            return min(value, 0)

    plain, tiled = TorchKernels("test"), TorchKernels("test")
    tiled.has_bfloat16_tiles = True
    choose = device.choose_prompt_dtype
    assert choose(Settings(), tiled, OneRank()) == torch.bfloat16
    assert choose(Settings(), plain, OneRank()) is None
    assert choose(Settings(), tiled, MixedRanks()) is None
    for activations in ("int8", "float32"):
        assert choose(Settings(activations=activations), tiled, OneRank()) is None


def test_the_cache_is_as_asked_else_left_to_the_model() -> None:
    choose = device.choose_kv_dtype
    assert choose(Settings()) is None
    assert choose(Settings(kv_cache_dtype="int8")) == torch.int8
    assert choose(Settings(kv_cache_dtype="fp8_e4m3fn")) == torch.float8_e4m3fn


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_must_exist_when_asked_for() -> None:
    assert device.choose_device(Settings()) == CPU
    with pytest.raises(StartupError, match="--device cpu"):
        device.choose_device(Settings(device="cuda"))


def test_threads_follow_affinity_and_quota(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000")
    (tmp_path / "membership").write_text("0::/")
    group = ControlGroup(tmp_path, tmp_path / "membership")
    unlimited = ControlGroup(tmp_path / "none", tmp_path / "none")
    assert device.num_threads(Settings(cpu_threads=7), group) == 7
    assert device.num_threads(Settings(), group) == 1
    assert device.num_threads(Settings(), unlimited) == len(psutil.Process().cpu_affinity() or [])


def test_available_memory_is_within_the_machine() -> None:
    assert 0 < device.available_memory(CPU, 1.0) <= psutil.virtual_memory().total
