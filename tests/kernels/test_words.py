"""What crosses over into the compiled modules; the tests of ops show that it is read right."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from headrace.kernels import DRAW, ops
from headrace.kernels.native import NativeKernels
from headrace.kernels.ops import Op
from headrace.kernels.routing import RoutingRule
from headrace.kernels.tensors import Routing
from headrace.kernels.twins.kernels import TWINS
from headrace.kernels.words import DTYPES, words

OPS = [op for op in vars(ops).values() if isinstance(op, type) and issubclass(op, Op) and op != Op]


def test_every_op_has_a_twin() -> None:
    assert set(OPS) == set(TWINS)


def test_every_op_has_a_compiled_function_that_counts_its_words(native: NativeKernels) -> None:
    for op in OPS:
        function = getattr(native._module, op.__name__)
        with pytest.raises(TypeError, match="too few"):
            function(None, 1)
        with pytest.raises(TypeError, match="too many"):
            function(None, 1, *[None] * 100)


def test_words_are_those_of_the_fields_in_their_order() -> None:
    x, out = torch.zeros(3, 40)[:, :32], torch.zeros(3, 32)
    weight, rows = torch.ones(32), torch.ones(1, dtype=torch.int32)
    op = ops.Norm(x, weight, out, eps=0.5, kind="layer", accumulate=True, rows=rows)
    assert words(op) == [
        *(rows.data_ptr(), 1, 1, 0, DTYPES[torch.int32]),
        *(x.data_ptr(), 3, 32, 40, 0),
        *(weight.data_ptr(), 1, 32, 0, 0),
        *(out.data_ptr(), 3, 32, 32, 0),
        *(0.5, 1, None, None, True),
    ]  # fmt: skip


def test_records_of_draws_are_an_address() -> None:
    logits, draws = torch.zeros(1, 8), np.zeros(1, DRAW)
    op = ops.Sample(logits, draws, torch.zeros(1, dtype=torch.int64), torch.zeros(1))
    assert words(op)[6] == draws.ctypes.data


@dataclass(frozen=True, kw_only=True)
class Extended(RoutingRule):
    more: str = "more"


def test_only_the_rule_of_a_subclass_is_told() -> None:
    logits, shape = torch.zeros(2, 4), (2, 1)
    routing = Routing(torch.zeros(shape, dtype=torch.int32), torch.zeros(shape))
    sizes = {"num_experts": 4, "experts_per_token": 1}
    plain, extended = RoutingRule(**sizes), Extended(**sizes)
    op = ops.Route(logits, routing, plain)
    assert words(op) == words(ops.Route(logits, routing, extended))
