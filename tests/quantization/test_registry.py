"""Which scheme a config asks for."""

import pytest

from headrace.errors import StartupError
from headrace.quantization import SCHEMES, detect


@pytest.mark.parametrize("config", [{}, {"quantization_config": None}])
def test_without_a_quantization_config_weights_are_dense(config: dict[str, None]) -> None:
    assert detect(config) == "none"


def test_unknown_method_is_named() -> None:
    with pytest.raises(StartupError, match=r"'spqr'; supported are none"):
        detect({"quantization_config": {"quant_method": "spqr"}})


def test_every_entry_is_a_scheme() -> None:
    assert all(callable(scheme.load) for scheme in SCHEMES.values())
