"""What attention modules ask, and which of it is refused."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from headrace.attention.base import AttentionOptions, LayerShape
from headrace.errors import StartupError
from headrace.models.transformers.survey import Survey, check_windows

QUERY, KEY, VALUE = torch.ones(2, 4, 16), torch.ones(2, 2, 16), torch.ones(2, 2, 24)


def asking(**asked: Any) -> Survey:
    survey = Survey()
    output = survey.attend(nn.Identity(), QUERY, KEY, VALUE, {"attention_mask": None} | asked)
    assert output.shape == (2, 4, 24)
    return survey


def test_sizes_and_options_are_noted() -> None:
    survey = asking(scaling=0.5, sliding_window=7, softcap=30.0, dropout=0.0, position_ids=QUERY)
    (layer,) = survey.layers
    assert layer.shape == LayerShape(num_heads=4, num_kv_heads=2, head_size=24)
    assert layer.options == AttentionOptions(scale=0.5, window=7, soft_cap=30.0)


def test_the_usual_scale_by_default() -> None:
    assert asking().layers[0].options.scale == 0.25


@pytest.mark.parametrize(
    "asked, reason",
    [
        ({"is_causal": False}, "Identity is not causal"),
        ({"attention_mask": QUERY}, "Identity builds an attention mask"),
        ({"position_bias": QUERY, "indices": QUERY}, "Identity needs indices, position_bias"),
    ],
)
def test_what_is_not_served(asked: dict[str, Any], reason: str) -> None:
    with pytest.raises(StartupError, match=reason):
        asking(**asked)


def test_a_module_may_say_that_it_is_not_causal() -> None:
    module = nn.Identity()
    module.is_causal = False  # type: ignore[assignment]
    with pytest.raises(StartupError, match="not causal"):
        Survey().attend(module, QUERY, KEY, VALUE, {"attention_mask": None, "is_causal": None})


@pytest.mark.parametrize(
    "config, windows, is_refused",
    [
        ({"layer_types": ["sliding_attention", "full_attention"]}, [7, None], False),
        ({"layer_types": ["sliding_attention", "sliding_attention"]}, [7, None], True),
        ({"sliding_window": 7}, [None], True),
        ({"sliding_window": 7}, [7], False),
        ({"sliding_window": None}, [None], False),
    ],
)
def test_windows_must_reach_attention(
    config: dict[str, Any], windows: list[int | None], is_refused: bool
) -> None:
    layers = [asking(sliding_window=window).layers[0] for window in windows]
    if is_refused:
        with pytest.raises(StartupError, match="sliding window"):
            check_windows(SimpleNamespace(**config), layers)
    else:
        check_windows(SimpleNamespace(**config), layers)
