"""The leading values of a row, in an order without ties."""

import torch
from torch import Tensor


def leading(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row of [R, V] float32, best first, lower ids first among equals.

    Returns values and ids, [R, min(count, V)].
    """
    keys = _ranking_keys(values)
    count = min(count, values.shape[1])
    if keys.is_cpu:
        # numpy sorts integers with vector instructions, about ten times as fast as torch.
        array = keys.numpy()
        if count < array.shape[1]:
            array.partition(count - 1, axis=1)
        array = array[:, :count]
        array.sort(axis=1)
        keys = torch.from_numpy(array)
    else:
        keys = keys.topk(count, dim=1, largest=False).values
    ids = keys & 0xFFFFFFFF
    return values.gather(1, ids), ids


def _ranking_keys(values: Tensor) -> Tensor:
    """[R, V] int64, all different within a row: ascending is by descending value, then by id.

    The bits of a float, as an integer, order like the float once those of negative ones are
    inverted below the sign. Adding 0 makes -0 equal to 0.
    """
    bits = (values + 0.0).view(torch.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    token_ids = torch.arange(values.shape[1], device=values.device)
    return (~bits).to(torch.int64).bitwise_left_shift_(32).bitwise_or_(token_ids)
