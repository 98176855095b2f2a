"""The kernels' attention against attention written out token by token."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.attention.native import NativeBackend
from headrace.attention.paged import PagedBackend
from headrace.kernels import load as load_kernels
from tests.attention.batches import HEAD_SIZE, HEADS, Case, cases, expected_output, run, shape


@settings(max_examples=60, deadline=None)
@given(
    case=cases(),
    sinks=st.none() | st.lists(st.floats(-3, 3), min_size=HEADS, max_size=HEADS),
    chunk=st.none() | st.integers(1, 50),
    value_size=st.sampled_from([4, HEAD_SIZE]),
)
def test_any_batch(
    case: Case, sinks: list[float] | None, chunk: int | None, value_size: int
) -> None:
    case = replace(case, sinks=sinks, chunk=chunk, value_size=value_size)
    within_keys = value_size if value_size < HEAD_SIZE else None
    output = run(NativeBackend(shape(kernels=load_kernels(), value_size=within_keys)), case)
    torch.testing.assert_close(output, expected_output(case), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sizes", [{}, {"head_size": 40, "value_size": 24}])
@pytest.mark.parametrize("kv_dtype", [torch.float16, torch.int8, torch.float8_e4m3fn])
def test_bytes_are_what_is_allocated(kv_dtype: torch.dtype, sizes: dict[str, int]) -> None:
    backend = NativeBackend(shape(kernels=load_kernels(), kv_dtype=kv_dtype, **sizes))
    backend.allocate(3)
    parts = [
        part
        for cache in backend.caches
        for part in (cache.keys, cache.values, cache.key_scales, cache.value_scales)
        if part is not None
    ]
    assert sum(part.nbytes for part in parts) == 3 * backend.bytes_per_block()
    assert backend.bytes_per_block() < 2 * PagedBackend(shape(**sizes)).bytes_per_block()


def test_reasons_for_refusal() -> None:
    kernels = load_kernels()
    assert "needs the CPU kernels" in (NativeBackend.unsupported(shape()) or "")
    assert "head size" in (NativeBackend.unsupported(shape(kernels=kernels, head_size=600)) or "")
    assert NativeBackend.unsupported(shape(kernels=kernels)) is None
