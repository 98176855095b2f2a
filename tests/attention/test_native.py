"""The kernels' attention against attention written out token by token."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.attention.base import LayerShape
from headrace.attention.native import NativeBackend
from headrace.attention.paged import PagedBackend
from headrace.kernels import load as load_kernels
from tests.attention.batches import (
    HEAD_SIZE,
    HEADS,
    Case,
    cases,
    expected_output,
    layer_shape,
    run,
    shape,
)


@settings(max_examples=60)
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
    layer = layer_shape(value_size=within_keys)
    output = run(NativeBackend(shape(layer, kernels=load_kernels())), case)
    torch.testing.assert_close(output, expected_output(case), rtol=1e-4, atol=1e-5)


def test_layers_may_differ() -> None:
    """Each is as if it were alone."""
    usual, other = layer_shape(), layer_shape(num_kv_heads=6, head_size=40)
    case = Case(sequences=[(1, 30), (20, 5)])
    backend = NativeBackend(shape(other, usual, kernels=load_kernels()))
    torch.testing.assert_close(run(backend, case, layer=1), expected_output(case))


@pytest.mark.parametrize(
    "layers",
    [
        [layer_shape()],
        [layer_shape(head_size=40, value_size=24)],
        [layer_shape(head_size=80), layer_shape(num_kv_heads=1), layer_shape(num_kv_heads=6)],
    ],
)
@pytest.mark.parametrize("kv_dtype", [torch.float16, torch.int8, torch.float8_e4m3fn])
def test_bytes_are_what_is_allocated(kv_dtype: torch.dtype, layers: list[LayerShape]) -> None:
    backend = NativeBackend(shape(*layers, kernels=load_kernels(), kv_dtype=kv_dtype))
    backend.allocate(3)
    parts = [
        part
        for cache in backend.caches
        for part in (cache.keys, cache.values, cache.key_scales, cache.value_scales)
        if part is not None
    ]
    assert sum(part.nbytes for part in parts) == 3 * backend.bytes_per_block()
    assert backend.bytes_per_block() < 2 * PagedBackend(shape(*layers)).bytes_per_block()


def test_reasons_for_refusal() -> None:
    kernels = load_kernels()
    assert "needs the CPU kernels" in (NativeBackend.unsupported(shape()) or "")
    large = shape(layer_shape(), layer_shape(head_size=600), kernels=kernels)
    assert "head size up to 576, not 600" in (NativeBackend.unsupported(large) or "")
    assert NativeBackend.unsupported(shape(kernels=kernels)) is None
