"""The base of all request bodies, and the number types they share.

As strict as serde, which TGI's clients are used to: a wrong JSON type is an error, an unknown
field is not, and no number is infinite.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from headrace.errors import ValidationError

FLOAT32_MAX = 3.4028234e38

Float32 = Annotated[float, Field(ge=-FLOAT32_MAX, le=FLOAT32_MAX)]
Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Unsigned32 = Annotated[int, Field(ge=0, le=2**32 - 1)]
Unsigned64 = Annotated[int, Field(ge=0, le=2**64 - 1)]


class Body(BaseModel):
    """A JSON object sent by a client."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)


def reject_unsupported(body: Body, harmless: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise ValidationError for a field that is set although it would have no effect.

    `harmless` gives, per field that is not supported, the values that ask for nothing.
    """
    for name, values in harmless.items():
        if getattr(body, name) not in values:
            raise ValidationError(f"`{name}` is not supported by this server")
