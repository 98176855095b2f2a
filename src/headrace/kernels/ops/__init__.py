"""The ops of a decoder on CPU: their contract and the checks, whoever computes them.

Every op works on rows; a row's result never depends on other rows, on their number or on the
number of threads. All floats are float32 unless a shape line says otherwise. Activations may be in
two parts (`SplitActivation`), each with an arithmetic of its own.
"""

from headrace.kernels.ops.attention import Attention as Attention
from headrace.kernels.ops.attention import RopeWrite as RopeWrite
from headrace.kernels.ops.collectives import AllGather as AllGather
from headrace.kernels.ops.collectives import AllReduce as AllReduce
from headrace.kernels.ops.experts import Experts as Experts
from headrace.kernels.ops.experts import Route as Route
from headrace.kernels.ops.linear import Linear as Linear
from headrace.kernels.ops.linear import LinearBlocks as LinearBlocks
from headrace.kernels.ops.linear import LinearGate as LinearGate
from headrace.kernels.ops.op import Op as Op
from headrace.kernels.ops.pointwise import Activate as Activate
from headrace.kernels.ops.pointwise import Embedding as Embedding
from headrace.kernels.ops.pointwise import Gate as Gate
from headrace.kernels.ops.pointwise import Norm as Norm
from headrace.kernels.ops.pointwise import Permute as Permute
from headrace.kernels.ops.pointwise import Quantize as Quantize
from headrace.kernels.ops.pointwise import SoftCap as SoftCap
from headrace.kernels.ops.sampling import Allow as Allow
from headrace.kernels.ops.sampling import Argmax as Argmax
from headrace.kernels.ops.sampling import Sample as Sample
from headrace.kernels.ops.sampling import TopLogprobs as TopLogprobs
