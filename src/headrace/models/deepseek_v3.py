"""DeepSeek V3 and R1: V2 with sigmoid scores and a bias that balances the experts' load."""

from dataclasses import replace
from typing import Any

from headrace.models.deepseek_v2 import DeepseekConfig, DeepseekMoEConfig, deepseek_decoder
from headrace.models.family import read_config
from headrace.models.mixture import grouped_moe_spec
from headrace.models.spec import DecoderSpec


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    deepseek, moe = read_config(DeepseekConfig, config), read_config(DeepseekMoEConfig, config)
    mixture = grouped_moe_spec(deepseek, moe)
    router = replace(mixture.router, scores="sigmoid", has_choice_bias=True, experts_per_group=2)
    return deepseek_decoder(deepseek, replace(mixture, router=router))
