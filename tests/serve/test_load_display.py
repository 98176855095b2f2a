"""What people see of loading where there is no terminal."""

import io
import logging
import sys
import time

import pytest

from headrace.serve.load_display import LoadDisplay
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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with caplog.at_level(logging.INFO), LoadDisplay() as display:
        for stage in ("load weights", "warm up"):
            display.update(LoadProgress(stage, 0, 4))
            display.update(LoadProgress(stage, 1, 4))
            display._bar.refresh()
        shown = sys.stderr.getvalue()
    assert "load weights" in shown and "warm up" in shown and "25%" in shown
    assert caplog.messages == []
