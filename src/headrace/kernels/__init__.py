"""Kernels for CPUs: compiled ones where a module was built for this CPU, else their torch twins."""

from headrace.kernels.base import Kernels as Kernels
from headrace.kernels.base import Program as Program
from headrace.kernels.dispatch import load as load
from headrace.kernels.ranks import RankMemory as RankMemory
from headrace.kernels.ranks import Relay as Relay
from headrace.kernels.tensors import BLOCK_FORMATS as BLOCK_FORMATS
from headrace.kernels.tensors import BLOCK_SIZE as BLOCK_SIZE
from headrace.kernels.tensors import DRAW as DRAW
from headrace.kernels.tensors import Activation as Activation
from headrace.kernels.tensors import AttentionOptions as AttentionOptions
from headrace.kernels.tensors import HeadNorms as HeadNorms
from headrace.kernels.tensors import LayerCache as LayerCache
from headrace.kernels.tensors import PackedWeight as PackedWeight
from headrace.kernels.tensors import QuantizedActivation as QuantizedActivation
from headrace.kernels.tensors import Rotary as Rotary
from headrace.kernels.tensors import Split as Split
from headrace.kernels.tensors import SplitActivation as SplitActivation
from headrace.kernels.twins import TorchKernels as TorchKernels
