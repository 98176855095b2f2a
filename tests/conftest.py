"""Before anything is imported: Triton compiles for its interpreter only if told so by then."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

from hypothesis import settings

# The same examples on every run: a property that fails by chance tells a passer-by nothing of his
# change. HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
