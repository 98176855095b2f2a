"""Where checkpoints keep queries, keys and values that are fused, or paired for rotation."""

from dataclasses import replace

from headrace.layers.attention import AttentionSpec
from headrace.layers.moe import MoESpec
from headrace.weights.naming import Source, deinterleaved, every_other, grouped_heads, part

Experts = dict[str, str | Source]
MLP_PARTS = ("gate_proj", "up_proj", "down_proj")
QUERY, KEY, VALUE = "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"


def stacked_qkv(
    name: str, attention: AttentionSpec, *, is_transposed: bool = False
) -> dict[str, Source]:
    """All queries, then all keys, then all values in the layer `name`."""
    query, key = (n * attention.head_size for n in (attention.num_heads, attention.num_kv_heads))
    return {
        QUERY: Source(name, part(0, query), is_transposed),
        KEY: Source(name, part(query, key), is_transposed),
        VALUE: Source(name, part(query + key, key), is_transposed),
    }


def grouped_qkv(name: str, attention: AttentionSpec) -> dict[str, Source]:
    """In the layer `name` each key head stands between its queries and its values."""
    groups = attention.num_kv_heads
    queries = attention.num_heads // groups
    return {
        QUERY: Source(name, grouped_heads(groups, queries + 2, 0, queries)),
        KEY: Source(name, grouped_heads(groups, queries + 2, queries, 1)),
        VALUE: Source(name, grouped_heads(groups, queries + 2, queries + 1, 1)),
    }


def interleaved_qk(
    attention: AttentionSpec, query: str = QUERY, key: str = KEY
) -> dict[str, Source]:
    """Queries and keys whose neighbouring elements rotate together (GPT-J, Cohere)."""
    assert attention.rope is not None
    width = attention.rope.rotary_size
    return {
        QUERY: Source(query, deinterleaved(attention.num_heads, width)),
        KEY: Source(key, deinterleaved(attention.num_kv_heads, width)),
    }


def interleaved_head_norms(attention: AttentionSpec) -> dict[str, Source]:
    """Weights [heads, head_size] of the norms of such queries and keys."""
    assert attention.rope is not None
    order = deinterleaved(1, attention.rope.rotary_size)
    names = ("self_attn.q_norm", "self_attn.k_norm")
    return {name: Source(name, lambda rows: order(rows.t()).t()) for name in names}


def stacked_gate_up(name: str, size: int, mlp: str = "mlp") -> dict[str, Source]:
    """The gate of an MLP, then its other input, in the layer `name`."""
    return {
        f"{mlp}.gate_proj": Source(name, part(0, size)),
        f"{mlp}.up_proj": Source(name, part(size, size)),
    }


def separate_experts(prefix: str, num_experts: int, gate: str, up: str, down: str) -> Experts:
    """Each expert has layers of its own, under its number after `prefix`."""
    names = {"gate_proj": gate, "up_proj": up, "down_proj": down}
    return {
        f"mlp.experts.{expert}.{ours}": f"{prefix}.{expert}.{theirs}"
        for expert in range(num_experts)
        for ours, theirs in names.items()
    }


def stacked_experts(
    gate_up: Source, down: Source, mixture: MoESpec, *, is_interleaved: bool = False
) -> Experts:
    """All experts are in one tensor, [experts, ...]; of `gate_up` the first rows are the gate's, or
    every other one is."""
    size = mixture.expert.intermediate_size
    gate, up = part(0, size), part(size, size)
    if is_interleaved:
        gate, up = every_other(0), every_other(1)
    sources: dict[str, str | Source] = {}
    for expert in range(mixture.router.num_experts):
        prefix = f"mlp.experts.{expert}"
        sources[f"{prefix}.gate_proj"] = replace(gate_up, expert=expert, rows=gate)
        sources[f"{prefix}.up_proj"] = replace(gate_up, expert=expert, rows=up)
        sources[f"{prefix}.down_proj"] = replace(down, expert=expert)
    return sources


def transposed_experts(prefix: str, mixture: MoESpec, *, is_interleaved: bool = False) -> Experts:
    """`stacked_experts` in parameters [experts, inputs, outputs]."""
    gate_up, down = (
        Source(f"{prefix}.{name}", is_transposed=True, is_parameter=True)
        for name in ("gate_up_proj", "down_proj")
    )
    return stacked_experts(gate_up, down, mixture, is_interleaved=is_interleaved)
