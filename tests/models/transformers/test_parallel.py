"""Which plans of transformers' classes can be followed; what comes out is in tests/distributed."""

from typing import Any
from unittest.mock import Mock

import pytest
import torch
import transformers

from headrace.distributed.shard import Shard
from headrace.errors import StartupError
from headrace.models.transformers.parallel import plan_cuts
from tests.models.checkpoints import BASE


def styles(architecture: str, num_ranks: int = 2, **changes: Any) -> dict[str, str]:
    model_class: Any = getattr(transformers, architecture)
    with torch.device("meta"):
        model = model_class._from_config(model_class.config_class(**BASE | changes))
    ranks = Mock(shard=Shard(0, num_ranks))
    return {name: cut.style for name, cut in plan_cuts(model, ranks).items()}


def test_a_plan_names_layers() -> None:
    found = styles("ArceeForCausalLM", num_hidden_layers=1)
    attention, mlp = "model.layers.0.self_attn.", "model.layers.0.mlp."
    assert found == {
        f"{attention}q_proj": "colwise",
        f"{attention}k_proj": "colwise",
        f"{attention}v_proj": "colwise",
        f"{attention}o_proj": "rowwise",
        f"{mlp}up_proj": "colwise",
        f"{mlp}down_proj": "rowwise",
        "lm_head": "colwise_gather_output",
    }


def test_one_rank_needs_no_plan() -> None:
    assert styles("PersimmonForCausalLM", 1) == {}


@pytest.mark.parametrize(
    ("architecture", "num_ranks", "reason"),
    [
        ("PersimmonForCausalLM", 2, "no tensor-parallel plan"),
        ("DiffLlamaForCausalLM", 2, "no tensor-parallel plan of its layers"),
        ("HunYuanMoEV1ForCausalLM", 2, "'moe_tp_experts' of model.layers.0.mlp.experts"),
        ("ArceeForCausalLM", 3, "cannot be shared evenly"),
    ],
)
def test_what_cannot_be_followed_is_refused(architecture: str, num_ranks: int, reason: str) -> None:
    changes = {"num_experts": 4, "moe_topk": 2} if "MoE" in architecture else {}
    with pytest.raises(StartupError, match=f"--num-shard.*{reason}"):
        styles(architecture, num_ranks, **changes)
