import numpy as np
import torch

from headrace.runner.logits import allow_
from headrace.runner.masks import Masks


def test_masks_allow_set_bits_only() -> None:
    allowed = np.zeros((2, 96), dtype=bool)
    allowed[0, [0, 31, 32, 69]] = True
    allowed[1, [63]] = True
    packed = np.packbits(allowed, axis=1, bitorder="little").view(np.int32)
    logits = torch.zeros(3, 70)
    allow_(logits, Masks(torch.tensor([0, 2]), torch.from_numpy(packed)))
    assert (logits[[0, 2]].isfinite().numpy() == allowed[:, :70]).all()
    assert logits[1].isfinite().all()
