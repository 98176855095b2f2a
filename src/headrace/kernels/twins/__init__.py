"""The plain-torch twins of the compiled kernels."""

from headrace.kernels.twins.kernels import TorchKernels as TorchKernels
