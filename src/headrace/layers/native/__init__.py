"""The layers' operations with the CPU kernels."""

from headrace.layers.native.buffers import Counts as Counts
from headrace.layers.native.experts import expert_weights as expert_weights
from headrace.layers.native.operations import NativeOperations as NativeOperations
from headrace.layers.native.unsupported import unsupported as unsupported
