"""Without a GPU nothing is claimed, and no other run has tests that need one."""

from pathlib import Path

import pytest
import torch

from tests import gpu


def test_without_a_device_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 0
    assert capsys.readouterr().out.strip() == gpu.NOTHING


@pytest.mark.parametrize("mark, expected", [("cuda", "1/2"), ("not slow", "1/2")])
def test_marked_tests_run_only_when_asked_for(
    mark: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    test = Path(__file__).parent / "quantization/test_triton_matmul.py::test_it_passes_its_trial"
    pytest.main(["-q", "--collect-only", "-p", "no:cacheprovider", "-m", mark, str(test)])
    assert f"{expected} tests collected" in capsys.readouterr().out
