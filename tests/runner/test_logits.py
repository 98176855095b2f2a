import numpy as np
import torch

from headrace.runner.logits import allow_


def test_bitmask_allows_set_bits_only() -> None:
    allowed = np.zeros((2, 96), dtype=bool)
    allowed[0, [0, 31, 32, 69]] = True
    allowed[1, [63]] = True
    packed = np.packbits(allowed, axis=1, bitorder="little").view(np.int32)
    logits = torch.zeros(2, 70)
    allow_(logits, torch.from_numpy(packed))
    assert (logits.isfinite().numpy() == allowed[:, :70]).all()
