"""Types of config.json's fields, with their bounds."""

from typing import Annotated, Literal

import msgspec

Positive = Annotated[int, msgspec.Meta(gt=0)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
LayerCount = Annotated[int, msgspec.Meta(gt=0, le=10_000)]
ExpertCount = Annotated[int, msgspec.Meta(gt=0, le=10_000)]
LayerTypes = list[Literal["full_attention", "sliding_attention"]]
