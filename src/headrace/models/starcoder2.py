"""StarCoder2: rotary embedding, layer norms, biases, an MLP without gate."""

from dataclasses import replace
from typing import Any

from headrace.models.family import FamilyConfig, decoder_spec, gpt_layer, read_config
from headrace.models.fields import Positive
from headrace.models.spec import DecoderSpec, with_windows
from headrace.weights import Naming

NAMING = Naming(inner={"mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"})


class Starcoder2Config(FamilyConfig, kw_only=True):
    """What StarCoder2 adds to the shared fields."""

    hidden_act: str = "gelu_pytorch_tanh"
    use_bias: bool = True
    sliding_window: Positive | None = None


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    coder = read_config(Starcoder2Config, config)
    layers = [gpt_layer(coder, bias=coder.use_bias)] * coder.num_hidden_layers
    decoder = decoder_spec(coder, with_windows(layers, [coder.sliding_window] * len(layers)))
    return replace(decoder, naming=NAMING)
