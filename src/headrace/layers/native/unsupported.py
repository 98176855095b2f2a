"""Which layers the kernels can compute, and what they call activation functions."""

from headrace.kernels.tensors import GROUP_SIZE, ActivationKind, GateKind
from headrace.layers.activation import CLAMPED_SWIGLU
from headrace.layers.attention import AttentionSpec, HeadNormSpec
from headrace.layers.mlp import MLPSpec
from headrace.layers.moe import MoESpec

ACTIVATIONS: dict[str, ActivationKind] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}
GATES: dict[str, GateKind] = {**ACTIVATIONS, CLAMPED_SWIGLU: "clamped_swiglu"}


def unsupported(hidden_size: int, attention: AttentionSpec, mlp: MLPSpec | MoESpec) -> str | None:
    """What of a layer the kernels cannot do; None: nothing."""
    if isinstance(mlp, MoESpec):
        reason = _unsupported_experts(mlp)
        return reason or unsupported(hidden_size, attention, mlp.expert)
    if mlp.activation not in GATES:
        return f"activation {mlp.activation}"
    for name, size in (("hidden", hidden_size), ("intermediate", mlp.intermediate_size)):
        if size % GROUP_SIZE:
            return f"{name} size {size} is no multiple of {GROUP_SIZE}"
    return _unsupported_norm(attention.head_norm, attention.clip) if attention.head_norm else None


def _unsupported_norm(norm: HeadNormSpec, clip: float | None) -> str | None:
    if norm.is_joint:
        return None if clip is None else "a norm over all heads, clamped before"
    return "norms of each query and key head with biases" if norm.norm.has_bias else None


def _unsupported_experts(mixture: MoESpec) -> str | None:
    if mixture.shared is not None and mixture.shared.intermediate_size % GROUP_SIZE:
        size = mixture.shared.intermediate_size
        return f"intermediate size {size} of a shared expert is no multiple of {GROUP_SIZE}"
    return None
