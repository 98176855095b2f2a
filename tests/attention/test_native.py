"""The kernels' attention against attention written out token by token."""

import pytest
import torch
from hypothesis import given, settings

from headrace.attention.native import NativeBackend
from headrace.attention.paged import PagedBackend
from headrace.kernels import load as load_kernels
from tests.attention.batches import Case, cases, expected_output, run, shape


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_any_batch(case: Case) -> None:
    output = run(NativeBackend(shape(kernels=load_kernels())), case)
    torch.testing.assert_close(output, expected_output(case), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kv_dtype", "share"), [(torch.float16, 1 / 2), (torch.int8, 1.0625 / 4)])
def test_bytes_are_what_is_allocated(kv_dtype: torch.dtype, share: float) -> None:
    backend = NativeBackend(shape(kernels=load_kernels(), kv_dtype=kv_dtype))
    backend.allocate(3)
    parts = [
        part
        for cache in backend.caches
        for part in (cache.keys, cache.values, cache.key_scales, cache.value_scales)
        if part is not None
    ]
    assert sum(part.nbytes for part in parts) == 3 * backend.bytes_per_block()
    assert backend.bytes_per_block() < PagedBackend(shape()).bytes_per_block()


def test_reasons_for_refusal() -> None:
    kernels = load_kernels()
    assert "needs the CPU kernels" in (NativeBackend.unsupported(shape()) or "")
    assert "head size" in (NativeBackend.unsupported(shape(kernels=kernels, head_size=24)) or "")
    for lacking in ({"has_sinks": True}, {"has_chunks": True}, {"value_size": 4}):
        assert "neither sinks" in (
            NativeBackend.unsupported(shape(kernels=kernels, **lacking)) or ""
        )
    assert NativeBackend.unsupported(shape(kernels=kernels)) is None
