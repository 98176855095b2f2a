"""What people see of loading where there is no terminal."""

import logging
import time

import pytest

from headrace.serve.progress import LoadDisplay
from headrace.types import LoadProgress


def test_stages_and_what_they_took(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [10.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO), LoadDisplay() as display:
        for stage, seconds in (("load weights", 2.5), ("warm up", 0.3)):
            display.update(LoadProgress(stage, 0, 2))
            now[0] += seconds
            display.update(LoadProgress(stage, 2, 2))
    assert caplog.messages == ["load weights", "warm up", "load weights 2.5 s, warm up 0.3 s"]


def test_a_failure_took_no_time(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(OSError), LoadDisplay() as display:
        display.update(LoadProgress("load weights", 0, 0))
        raise OSError
    assert caplog.messages == ["load weights"]
