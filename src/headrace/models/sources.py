"""Where checkpoints keep queries, keys and values that are fused, or paired for rotation."""

from headrace.layers.attention import AttentionSpec
from headrace.weights.naming import Source, deinterleaved, grouped_heads, part

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


def interleaved_qk(query: str, key: str, attention: AttentionSpec) -> dict[str, Source]:
    """Queries and keys whose neighbouring elements rotate together (GPT-J, Cohere)."""
    assert attention.rope is not None
    width = attention.rope.rotary_size
    return {
        QUERY: Source(query, deinterleaved(attention.num_heads, width)),
        KEY: Source(key, deinterleaved(attention.num_kv_heads, width)),
    }


def stacked_gate_up(name: str, intermediate_size: int) -> dict[str, Source]:
    """The MLP's gate, then its other input, in the layer `name`."""
    return {
        "mlp.gate_proj": Source(name, part(0, intermediate_size)),
        "mlp.up_proj": Source(name, part(intermediate_size, intermediate_size)),
    }
