"""The CUDA backend's logic, with a stand-in for the kernel that follows its documentation; and on a
GPU with the kernel itself."""

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from headrace.attention import PagedBackend, VarlenBackend, choose_backend
from headrace.attention.varlen import trial
from tests.attention.batches import Case, expected_output, layer_shape, run, shape
from tests.devices import CUDA

VARLEN_ATTENTION = "torch.nn.attention.varlen.varlen_attn"
"""Of a module that pulls in torch's compiler: by name, so that no other tests import it."""


def fake_varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: Tensor,
    block_table: Tensor,
) -> Tensor:
    """Causal attention, windows counted to the left, pages from the table, in plain torch."""
    left, right = window_size
    pages, size, kv_heads, _ = key.shape
    assert right == 0 and cu_seq_k is None and size % 256 == 0
    assert enable_gqa == (query.shape[1] != kv_heads)
    assert max_q == int(cu_seq_q.diff().max()) and max_k == int(seqused_k.max())
    assert all(x.dtype == torch.int32 for x in (cu_seq_q, seqused_k, block_table))
    outputs = []
    for s, context in enumerate(seqused_k.tolist()):
        own = query[cu_seq_q[s] : cu_seq_q[s + 1]]
        blocks = block_table[s, : -(-context // size)].long()
        group = query.shape[1] // kv_heads
        keys, values = (
            x[blocks].flatten(0, 1)[:context].repeat_interleave(group, dim=1) for x in (key, value)
        )
        at = torch.arange(context - len(own), context)[:, None]
        seen = torch.arange(context) <= at
        if left >= 0:
            seen &= torch.arange(context) >= at - left
        scores = torch.einsum("qhd,khd->hqk", own, keys) * scale
        weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(outputs)


@pytest.fixture(autouse=True)
def fake_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("cuda") is None:
        monkeypatch.setattr(VARLEN_ATTENTION, fake_varlen_attn)


@pytest.mark.parametrize("window", [None, 1, 7])
def test_matches_plain_attention(window: int | None) -> None:
    case = Case(sequences=[(1, 20), (1, 300), (40, 0), (12, 270)], window=window)
    output = run(VarlenBackend(shape()), case)
    torch.testing.assert_close(output, expected_output(case), rtol=1e-4, atol=1e-5)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 1, 7])
def test_the_kernel_of_this_gpu(window: int | None, dtype: torch.dtype) -> None:
    asked = shape(device=CUDA, dtype=dtype, kv_dtype=dtype)
    if reason := VarlenBackend.unsupported(asked):
        pytest.skip(reason)
    case = Case(sequences=[(1, 20), (1, 300), (40, 0), (12, 270)], window=window)
    output = run(VarlenBackend(asked), case)
    torch.testing.assert_close(output.float(), expected_output(case), rtol=0.02, atol=0.02)


def test_bytes_per_block_are_those_allocated() -> None:
    backend = VarlenBackend(shape(layer_shape(), layer_shape(num_kv_heads=3, head_size=24)))
    backend.allocate(3)
    parts = [*backend.keys, *backend.values]
    assert sum(part.nbytes for part in parts) == 3 * backend.bytes_per_block()


def test_trial_accepts_a_kernel_that_agrees() -> None:
    assert trial(shape(), layer_shape()) is None


def test_trial_reports_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def ignores_scale(*args: Any, **kwargs: Any) -> Tensor:
        return fake_varlen_attn(*args, **kwargs | {"scale": 0.0})

    monkeypatch.setattr(VARLEN_ATTENTION, ignores_scale)
    assert "differs from the reference" in (trial(shape(), layer_shape()) or "")


def test_trial_reports_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    def decodes_to_nan(*args: Any, **kwargs: Any) -> Tensor:
        output = fake_varlen_attn(*args, **kwargs)
        return output * math.nan if len(output) == 21 else output

    monkeypatch.setattr(VARLEN_ATTENTION, decodes_to_nan)
    assert "differs from the reference by nan" in (trial(shape(), layer_shape()) or "")


def test_trial_reports_a_missing_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **kwargs: Any) -> Tensor:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(VARLEN_ATTENTION, fails)
    assert "no kernel image" in (trial(shape(), layer_shape()) or "")


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({}, "CUDA"),
        ({"device": torch.device("cuda")}, "float32"),
        ({"device": torch.device("cuda"), "dtype": torch.float16}, "cache"),
        (
            {
                "device": torch.device("cuda"),
                "dtype": torch.float16,
                "kv_dtype": torch.float16,
                "layers": (layer_shape(), layer_shape(head_size=260)),
            },
            "260",
        ),
        (
            {
                "device": torch.device("cuda"),
                "dtype": torch.float16,
                "kv_dtype": torch.float16,
                "has_alibi": True,
            },
            "ALiBi",
        ),
    ],
)
def test_reasons_are_named(changes: dict[str, Any], reason: str) -> None:
    assert reason in (VarlenBackend.unsupported(shape(**changes)) or "")


def test_choice_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert isinstance(choose_backend(shape()), PagedBackend)
    assert "paged (native needs the CPU kernels; varlen needs a CUDA device)" in caplog.text
