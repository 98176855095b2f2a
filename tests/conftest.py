"""Before anything is imported: Triton compiles for its interpreter only if told so by then."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
