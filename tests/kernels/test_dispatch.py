"""The choice among compiled modules, with CPUs and builds made up."""

from types import SimpleNamespace

import pytest

from headrace.kernels import dispatch

AVX512 = dispatch.MODULES["_avx512"] | dispatch.MODULES["_avx2"]
AVX512_BF16 = AVX512 | dispatch.MODULES["_avx512_bf16"]


def pretend(monkeypatch: pytest.MonkeyPatch, features: frozenset[str], built: set[str]) -> None:
    def import_module(name: str) -> SimpleNamespace:
        module = name.rsplit(".", 1)[1]
        if module not in built:
            raise ImportError(name)
        return SimpleNamespace(isa=module, has_bfloat16_products=0, has_bfloat16_tiles=0)

    monkeypatch.setattr(dispatch, "cpu_features", lambda: features)
    monkeypatch.setattr(dispatch.importlib, "import_module", import_module)


def test_the_best_built_module_that_the_cpu_can_run_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, dispatch.MODULES["_amx"], {"_amx", "_avx512"})
    assert dispatch.load("auto").name == "_amx"
    pretend(monkeypatch, AVX512_BF16, {"_amx", "_avx512_bf16", "_avx512", "_avx2"})
    assert dispatch.load("auto").name == "_avx512_bf16"
    pretend(monkeypatch, AVX512, {"_amx", "_avx512_bf16", "_avx512", "_avx2"})
    assert dispatch.load("auto").name == "_avx512"
    pretend(monkeypatch, AVX512, {"_avx2"})
    assert dispatch.load("native").name == "_avx2"
    pretend(monkeypatch, dispatch.MODULES["_avx2"], {"_avx512", "_avx2"})
    assert dispatch.load("auto").name == "_avx2"


def test_without_a_module_the_twins_serve_and_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, AVX512, set())
    assert dispatch.load("auto").reason == (
        "plain torch: no compiled module for this CPU was built (no compiler?)"
    )
    with pytest.raises(ValueError, match="no compiled module"):
        dispatch.load("native")
