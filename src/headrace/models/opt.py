"""OPT: learned positions from row 2 on; in one size norms after the sums, and small embeddings."""

from dataclasses import replace
from typing import Any

from headrace.layers.embedding import EmbeddingSpec
from headrace.models.family import FamilyConfig, decoder_spec, gpt_layer, read_config
from headrace.models.fields import Positive
from headrace.models.spec import DecoderSpec
from headrace.weights import Naming
from headrace.weights.naming import Source, part

FIRST_POSITION = 2
"""Row of the table of positions."""
INNER = {
    "self_attn.o_proj": "self_attn.out_proj",
    "mlp.up_proj": "fc1",
    "mlp.down_proj": "fc2",
    "input_layernorm": "self_attn_layer_norm",
    "attention_output_norm": "self_attn_layer_norm",
    "post_attention_layernorm": "final_layer_norm",
    "mlp_output_norm": "final_layer_norm",
}
OUTER: dict[str, str | Source] = {
    "norm": "final_layer_norm",
    "embed_projection": "project_in",
    "output_projection": "project_out",
}


class OPTConfig(FamilyConfig, kw_only=True):
    """What OPT adds to the shared fields."""

    hidden_act: str = "relu"
    do_layer_norm_before: bool = True
    word_embed_proj_dim: Positive | None = None
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    opt = read_config(OPTConfig, config)
    layer, has_parameters = gpt_layer(opt, bias=opt.enable_bias), opt.layer_norm_elementwise_affine
    layer = replace(
        layer,
        attention=replace(layer.attention, rope=None),
        norm=replace(layer.norm, has_weight=has_parameters, has_bias=has_parameters),
        placement="before" if opt.do_layer_norm_before else "sum",
    )
    positions = opt.max_position_embeddings
    embedding = EmbeddingSpec(
        size=opt.word_embed_proj_dim or opt.hidden_size, num_positions=positions
    )
    table = Source("embed_positions", part(FIRST_POSITION, positions))
    naming = Naming(base="model.decoder.", inner=INNER, outer=OUTER | {"embed_positions": table})
    has_last_norm = opt.do_layer_norm_before and not config.get("_remove_final_layer_norm")
    decoder = replace(decoder_spec(opt, layer), embedding=embedding, naming=naming)
    return decoder if has_last_norm else replace(decoder, norm=None)
