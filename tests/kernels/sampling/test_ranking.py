import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.kernels.sampling.ranking import leading


@settings(max_examples=100)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(1, 45))
def test_leading_orders_ties_by_id(values: list[int], count: int) -> None:
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]
    top, ids = leading(torch.tensor([values, values[::-1]], dtype=torch.float32), count)
    assert ids[0].tolist() == expected
    assert top[0].tolist() == [values[i] for i in expected]


def test_leading_never_sorts_whole_rows_for_forbidden_tokens() -> None:
    values = torch.full((1, 100), -torch.inf)
    values[0, [7, 50]] = torch.tensor([1.0, 2.0])
    top, ids = leading(values, 10)
    assert ids[0, :2].tolist() == [50, 7]
    assert (top[0, 2:] == -torch.inf).all()
