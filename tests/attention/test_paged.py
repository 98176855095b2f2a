"""The paged backend against attention written out token by token."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.attention import paged
from headrace.attention.paged import PagedBackend, _store
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
from tests.devices import every_device


@every_device
@settings(max_examples=60)
@given(case=cases())
def test_any_batch(device: torch.device, case: Case) -> None:
    output = run(PagedBackend(shape(device=device)), case)
    torch.testing.assert_close(output, expected_output(case), rtol=1e-4, atol=1e-5)


@every_device
@settings(max_examples=40)
@given(
    case=cases(),
    sinks=st.none() | st.lists(st.floats(-3, 3), min_size=HEADS, max_size=HEADS),
    chunk=st.none() | st.integers(1, 50),
    value_size=st.sampled_from([4, HEAD_SIZE]),
)
def test_sinks_chunks_and_values_within_keys(
    device: torch.device, case: Case, sinks: list[float] | None, chunk: int | None, value_size: int
) -> None:
    case = replace(case, sinks=sinks, chunk=chunk, value_size=value_size)
    within_keys = value_size if value_size < HEAD_SIZE else None
    output = run(PagedBackend(shape(layer_shape(value_size=within_keys), device=device)), case)
    torch.testing.assert_close(output, expected_output(case), rtol=1e-4, atol=1e-5)


def test_values_within_keys_are_not_cached_twice() -> None:
    backend, apart = (PagedBackend(shape(layer_shape(value_size=size))) for size in (4, None))
    assert 2 * backend.bytes_per_block() == apart.bytes_per_block()
    backend.allocate(7)
    assert backend.keys[0].nbytes == 7 * backend.bytes_per_block()
    assert backend.values[0].data_ptr() == backend.keys[0].data_ptr()


def test_prompts_longer_than_a_tile_and_split_gathers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged, "QUERY_TILE", 16)
    monkeypatch.setattr(paged, "GATHERED_TOKENS", 64)
    sequences = [(1, 40), (1, 3), (1, 20), (1, 63), (1, 99), (50, 0), (33, 30)]
    for window in (None, 5, 24):
        case = Case(sequences=sequences, window=window)
        output = run(PagedBackend(shape()), case)
        torch.testing.assert_close(output, expected_output(case), rtol=1e-4, atol=1e-5)


def test_groups_bound_what_is_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged, "GATHERED_TOKENS", 100)
    assert paged._groups([40, 50, 10, 10, 300, 1]) == [(0, 2), (2, 4), (4, 5), (5, 6)]
    assert paged._groups([]) == []


@pytest.mark.parametrize("kv_dtype", [torch.float16, torch.bfloat16])
def test_half_precision_cache(kv_dtype: torch.dtype) -> None:
    case = Case(sequences=[(1, 30), (20, 5)])
    backend = PagedBackend(shape(kv_dtype=kv_dtype))
    assert backend.bytes_per_block() * 2 == PagedBackend(shape()).bytes_per_block()
    output = run(backend, case)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected_output(case), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("kv_dtype", "limit"), [(torch.float8_e4m3fn, 0.06), (torch.float8_e5m2, 0.12)]
)
@every_device
def test_cache_of_8_bit_floats(device: torch.device, kv_dtype: torch.dtype, limit: float) -> None:
    case = Case(sequences=[(1, 30), (20, 5)])
    backend = PagedBackend(shape(kv_dtype=kv_dtype, device=device))
    assert backend.bytes_per_block() * 4 == PagedBackend(shape()).bytes_per_block()
    output, expected = run(backend, case), expected_output(case)
    assert float((output - expected).norm() / expected.norm()) < limit


def test_what_8_bit_floats_cannot_hold_is_their_largest() -> None:
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        cache = torch.zeros(4, 1, 8, dtype=dtype)
        _store(torch.full((1, 1, 8), -1e6), cache, torch.tensor([2]))
        assert torch.equal(cache.float()[2], torch.full((1, 8), -torch.finfo(dtype).max))


def test_bytes_per_block_are_those_allocated() -> None:
    backend = PagedBackend(shape(layer_shape(), layer_shape(num_kv_heads=3, head_size=24)))
    backend.allocate(7)
    parts = [*backend.keys, *backend.values]
    assert sum(part.nbytes for part in parts) == 7 * backend.bytes_per_block()


def test_layers_may_differ() -> None:
    case = Case(sequences=[(1, 30), (20, 5)])
    backend = PagedBackend(shape(layer_shape(num_kv_heads=6, head_size=40), layer_shape()))
    torch.testing.assert_close(run(backend, case, layer=1), expected_output(case))


def test_integer_cache_is_refused() -> None:
    assert "int8" in (PagedBackend.unsupported(shape(kv_dtype=torch.int8)) or "")
    assert PagedBackend.unsupported(shape()) is None


def test_layers_have_separate_caches() -> None:
    backend = PagedBackend(shape())
    run(backend, Case(sequences=[(5, 5)]), layer=1)
    assert backend.keys[0].isnan().all() and backend.values[0].isnan().all()
    assert (~backend.keys[1].isnan()).sum() == 10 * backend.keys[1][0].numel()
