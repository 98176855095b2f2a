"""quantization_config of a checkpoint, checked against what a scheme can read."""

from typing import Annotated, Any, TypeVar

import msgspec

from headrace.errors import StartupError

GroupSize = Annotated[int, msgspec.Meta(ge=-1, le=1 << 20)]
"""-1: a whole row."""
BlockSide = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
Config = TypeVar("Config", bound=msgspec.Struct)


def read_config(kind: type[Config], config: dict[str, Any]) -> Config:
    """The fields of `kind`. Raises StartupError naming a field that is missing or unsupported."""
    try:
        return msgspec.convert(config, kind)
    except msgspec.ValidationError as error:
        raise StartupError(f"quantization_config: {error}") from None
