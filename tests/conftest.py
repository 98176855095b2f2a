"""Before anything is imported: Triton compiles for its interpreter only if told so by then."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every run: a property that fails by chance tells a passer-by nothing of his
# change. HYPOTHESIS_PROFILE=explore looks for new ones. How long an example takes is the machine's.
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("explore", settings.get_profile("repeatable"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of a GPU are part of the runs that ask for them, and of no others."""
    if "cuda" in config.option.markexpr:
        return
    needing = [item for item in items if item.get_closest_marker("cuda")]
    config.hook.pytest_deselected(items=needing)
    items[:] = [item for item in items if item not in needing]
