"""Programs, hostile shapes and hostile data."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from headrace.kernels import load, ops
from headrace.kernels.base import Kernels
from headrace.kernels.tensors import AttentionOptions, HeadNorms, LayerCache, Rotary
from tests.kernels.samples import dense, grouped, ragged


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_a_program_runs_on_as_many_rows_as_the_control_says(kernels: Kernels) -> None:
    weight = grouped("int4", 48, 64, 32, "minimum").pack(kernels)
    ids, rows = torch.zeros(20, dtype=torch.int32), ints(0)
    x, out = torch.zeros(20, 64), torch.zeros(20, 48)
    table = dense("float32", 100, 64).pack(kernels)
    activation = kernels.activation(20, 64)
    with kernels.record() as program:
        kernels.run(ops.Embedding(ids, table, x, rows=rows))
        kernels.run(ops.Norm(x, torch.ones(64), activation, eps=1e-5, rows=rows))
        kernels.run(ops.Linear(activation, weight, out, rows=rows))
    assert not out.any()
    for count in (5, 20, 1):
        ids.copy_(torch.randint(0, 100, (20,)))
        rows[0] = count
        out.zero_()
        program.run()
        wanted = torch.zeros(count, 48)
        eager_x, eager = torch.zeros(count, 64), kernels.activation(count, 64)
        kernels.run(ops.Embedding(ids[:count], table, eager_x))
        kernels.run(ops.Norm(eager_x, torch.ones(64), eager, eps=1e-5))
        kernels.run(ops.Linear(eager, weight, wanted))
        assert torch.allclose(out[:count], wanted, rtol=1e-5, atol=1e-6)
        assert not out[count:].any()


def test_a_program_refuses_more_rows_than_its_buffers_hold(kernels: Kernels) -> None:
    rows, x = ints(3), torch.zeros(2, 64)
    with kernels.record() as program:
        kernels.run(ops.Norm(x, torch.ones(64), torch.zeros(2, 64), eps=1e-5, rows=rows))
    for count in (3, -1):
        rows[0] = count
        with pytest.raises(ValueError, match="row count"):
            program.run()


def test_an_op_refuses_more_units_than_can_be_counted(native: Kernels) -> None:
    x, out = torch.zeros(1 << 24, 1), torch.zeros(1 << 24, dtype=torch.int32)
    with pytest.raises(ValueError, match="units of work"):
        native.run(ops.Argmax(x, out))


def test_a_program_keeps_its_tensors(native: Kernels) -> None:
    with native.record() as program:
        native.run(ops.Argmax(torch.arange(32.0)[None], (out := ints(0))))
    program.run()
    assert out.item() == 31


def attention(kernels: Kernels, **changes: Any) -> None:
    arguments: dict[str, Any] = {
        "qkv": torch.zeros(3, 6 * 16),
        "cache": kernels.empty_cache(2, 1, 16, torch.float32),
        "query_start": ints(0, 1, 3),
        "context_lens": ints(1, 30),
        "block_table": ints(0, 1).view(2, 1),
        "out": torch.zeros(3, 4 * 16),
        "num_heads": 4,
    }
    options = {k: changes.pop(k) for k in list(changes) if k not in arguments}
    kernels.run(
        ops.Attention(**arguments | changes, options=AttentionOptions(scale=1.0, **options))
    )


def rope_write(kernels: Kernels, **changes: Any) -> None:
    arguments: dict[str, Any] = {
        "qkv": torch.zeros(2, 3 * 16),
        "positions": ints(0, 1),
        "slot_mapping": torch.tensor([0, 1]),
        "cache": kernels.empty_cache(2, 1, 16, torch.float32),
        "num_heads": 1,
        "rotary": Rotary(torch.ones(4, 8), torch.ones(4, 8)),
    }
    kernels.run(ops.RopeWrite(**arguments | changes))


HOSTILE: dict[str, Callable[[Kernels], Any]] = {
    "table of fewer ids": lambda k: k.run(
        ops.Embedding(ints(5), dense("float32", 5, 8).pack(k), torch.zeros(1, 8))
    ),
    "negative id": lambda k: k.run(
        ops.Embedding(ints(-1), dense("float32", 5, 8).pack(k), torch.zeros(1, 8))
    ),
    "ids of int64": lambda k: k.run(
        ops.Embedding(torch.tensor([1]), dense("float32", 5, 8).pack(k), torch.zeros(1, 8))
    ),
    "fewer ids than rows": lambda k: k.run(
        ops.Embedding(ints(1), dense("float32", 5, 8).pack(k), torch.zeros(2, 8))
    ),
    "norm of other width": lambda k: k.run(
        ops.Norm(torch.zeros(2, 33), torch.ones(32), torch.zeros(2, 32), eps=1e-5)
    ),
    "norm index past x": lambda k: k.run(
        ops.Norm(torch.zeros(2, 32), torch.ones(32), torch.zeros(1, 32), eps=1e-5, index=ints(2))
    ),
    "norm of another kind": lambda k: k.run(
        ops.Norm(
            torch.zeros(2, 32),
            torch.ones(32),
            torch.zeros(2, 32),
            eps=1e-5,
            kind="batch",  # type: ignore[arg-type]
        )
    ),
    "linear of other width": lambda k: k.run(
        ops.Linear(torch.zeros(1, 64), dense("float32", 8, 32).pack(k), torch.zeros(1, 8))
    ),
    "linear into too few columns": lambda k: k.run(
        ops.Linear(torch.zeros(1, 32), dense("float32", 8, 32).pack(k), torch.zeros(1, 7))
    ),
    "linear of strided rows": lambda k: k.run(
        ops.Linear(torch.zeros(2, 64)[:, :32], dense("float32", 8, 32).pack(k), torch.zeros(2, 8))
    ),
    "quantized x float": lambda k: k.run(
        ops.Linear(k.activation(1, 32), dense("float32", 8, 32).pack(k), torch.zeros(1, 8))
    ),
    "gate of odd halves": lambda k: k.run(
        ops.Gate(torch.zeros(1, 96), torch.zeros(1, 48), kind="silu")
    ),
    "activation of 33": lambda k: k.activation(1, 33),
    "weight of 33 inputs": lambda k: k.empty_weight("int4", 8, 33),
    "weight of groups of 48": lambda k: k.empty_weight("int4", 8, 96, group_size=48),
    "weight of another kind": lambda k: k.empty_weight("int7", 8, 32),  # type: ignore[arg-type]
    "rows past the weight": lambda k: k.pack_floats(
        k.empty_weight("float32", 8, 4), 7, torch.zeros(2, 4)
    ),
    "rows before the weight": lambda k: k.pack_floats(
        k.empty_weight("float32", 8, 4), -1, torch.zeros(2, 4)
    ),
    "short blocks": lambda k: k.pack_blocks(
        k.empty_weight("int4", 8, 64), 0, "Q4_0", torch.zeros(8, 18, dtype=torch.uint8)
    ),
    "blocks of an unknown format": lambda k: k.pack_blocks(
        k.empty_weight("int4", 8, 32), 0, "Q9_9", torch.zeros(8, 18, dtype=torch.uint8)
    ),
    "8-bit blocks into 4 bits": lambda k: k.pack_blocks(
        k.empty_weight("int4", 8, 32), 0, "Q8_0", torch.zeros(8, 34, dtype=torch.uint8)
    ),
    "minima into none": lambda k: k.pack_blocks(
        k.empty_weight("int4", 8, 32), 0, "Q4_1", torch.zeros(8, 20, dtype=torch.uint8)
    ),
    "nibbles above 15": lambda k: k.pack_groups(
        k.empty_weight("int4", 1, 32), 0, torch.full((1, 32), 16).byte(), torch.ones(1, 1)
    ),
    "scales past float16": lambda k: k.pack_groups(
        k.empty_weight("int4", 1, 32), 0, torch.zeros(1, 32).byte(), torch.full((1, 1), 1e6)
    ),
    "scales that are no powers of two": lambda k: k.pack_groups(
        k.empty_weight("mxfp4", 1, 32, scaling="power_of_two"),
        0,
        torch.zeros(1, 32).byte(),
        torch.full((1, 1), 3.0),
    ),
    "zero points between quants of 2 bits": lambda k: k.pack_groups(
        k.empty_weight("int2", 1, 32, scaling="nibble_zero_point"),
        0,
        torch.zeros(1, 32).byte(),
        torch.ones(1, 1),
        torch.full((1, 1), 1.5),
    ),
    "cache of wide heads": lambda k: k.empty_cache(1, 1, 577, torch.float32),
    "values longer than keys": lambda k: k.empty_cache(1, 1, 16, torch.float32, 17),
    "activation of two inputs": lambda k: k.run(
        ops.Activate(
            torch.zeros(1, 32),
            torch.zeros(1, 32),
            kind="clamped_swiglu",  # type: ignore[arg-type]
        )
    ),
    "blocks narrower than weights": lambda k: k.run(
        ops.LinearBlocks(
            torch.zeros(1, 32), [dense("float32", 8, 17).pack(k)] * 2, torch.zeros(1, 16)
        )
    ),
    "blocks of several shapes": lambda k: k.run(
        ops.LinearBlocks(
            torch.zeros(1, 32),
            [dense("float32", 8, 16).pack(k), dense("float32", 9, 16).pack(k)],
            torch.zeros(1, 16),
        )
    ),
    "cache of int16": lambda k: k.empty_cache(1, 1, 32, torch.int16),
    "slot past the cache": lambda k: rope_write(k, slot_mapping=torch.tensor([0, 64])),
    "negative slot": lambda k: rope_write(k, slot_mapping=torch.tensor([0, -1])),
    "position past the table": lambda k: rope_write(k, positions=ints(0, 4)),
    "rotation wider than a head": lambda k: rope_write(
        k, rotary=Rotary(torch.ones(4, 9), torch.ones(4, 9))
    ),
    "rotation past a head": lambda k: rope_write(
        k, rotary=Rotary(torch.ones(4, 8), torch.ones(4, 8), first=1)
    ),
    "norm of other heads": lambda k: rope_write(
        k, norms=HeadNorms(torch.ones(2, 16), torch.ones(1, 16), 1e-5)
    ),
    "keys beside queries": lambda k: rope_write(k, key=torch.zeros(2, 16)),
    "clip of nothing": lambda k: rope_write(k, clip=0.0),
    "temperature without interval": lambda k: rope_write(k, temperature=(0.0, 1.0)),
    "qkv of other width": lambda k: rope_write(k, qkv=torch.zeros(2, 64)),
    "int8 cache without scales": lambda k: rope_write(
        k,
        cache=LayerCache(
            torch.zeros(1, 1, 16, 32).char(), torch.zeros(1, 1, 32, 16).char(), 16, 16
        ),
    ),
    "heads not shared evenly": lambda k: attention(k, cache=k.empty_cache(1, 3, 16, torch.float32)),
    "block past the cache": lambda k: attention(k, block_table=ints(0, 2).view(2, 1)),
    "negative block": lambda k: attention(k, block_table=ints(0, -1).view(2, 1)),
    "context past the table": lambda k: attention(k, context_lens=ints(1, 33)),
    "context shorter than queries": lambda k: attention(k, context_lens=ints(1, 1)),
    "queries past out": lambda k: attention(k, query_start=ints(0, 1, 4)),
    "queries backwards": lambda k: attention(k, query_start=ints(0, 3, 1)),
    "window of nothing": lambda k: attention(k, window=0),
    "chunk of nothing": lambda k: attention(k, chunk=0),
    "sinks of other heads": lambda k: attention(k, sinks=torch.zeros(3)),
    "negative soft cap": lambda k: attention(k, soft_cap=-1.0),
    "queries wider than qkv": lambda k: attention(k, qkv=torch.zeros(3, 63)),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_caches_begin_with_a_cache_line(kernels: Kernels, dtype: torch.dtype) -> None:
    """Tiles that straddle two lines are read three times as slowly."""
    for num_blocks in (1, 3, 2000):
        cache = kernels.empty_cache(num_blocks, 1, 40, dtype)
        assert cache.keys.data_ptr() % 64 == cache.values.data_ptr() % 64 == 0


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_arguments_are_refused(kernels: Kernels, case: str) -> None:
    with pytest.raises(ValueError):
        HOSTILE[case](kernels)


def test_the_baseline_of_the_hostile_cases_is_accepted(kernels: Kernels) -> None:
    rope_write(kernels)
    attention(kernels)


@pytest.mark.parametrize("threads", [0, -1, 100_000])
def test_absurd_thread_counts_are_refused(native: Kernels, threads: int) -> None:
    with pytest.raises(ValueError, match="threads"):
        native.set_num_threads(threads)


def test_ragged_sample_is_shuffled() -> None:
    torch.manual_seed(0)
    assert ragged([1], [200], (1, 1, 16)).block_table[0].tolist() != list(range(7))


def test_load_says_what_is_used_and_why() -> None:
    assert load("torch").reason == "plain torch: asked for"
    kernels = load("auto")
    assert kernels.reason.startswith((f"{kernels.name}: compiled", "plain torch: no compiled"))


def test_many_turns_on_more_threads_than_units(native: Kernels) -> None:
    """More turns than the 16 bits that tell them apart in a thread's part."""
    native.set_num_threads(3)
    x = torch.randn(4, 32)
    outs = [torch.zeros(rows, dtype=torch.int32) for rows in (1, 2, 4)]
    with native.record() as program:
        for index in range(999):
            out = outs[index % 3]
            native.run(ops.Argmax(x[: len(out)], out))
    for _ in range(67):
        program.run()
    assert [out.tolist() for out in outs] == [x[:n].argmax(1).tolist() for n in (1, 2, 4)]
