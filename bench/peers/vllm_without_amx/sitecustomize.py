"""Python imports this before vLLM, which otherwise takes AMX for usable where it was refused."""

import torch.cpu

torch.cpu._is_amx_tile_supported = lambda: False
