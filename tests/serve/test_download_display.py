"""What people see of a download, with a clock that the test sets."""

import io
import logging
import sys

import pytest

from headrace.serve.download_display import DownloadDisplay


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_every_few_seconds(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with caplog.at_level(logging.INFO), DownloadDisplay(clock) as display:
        for second in range(12):
            clock.now = 100.0 + second
            display.update(second * 50_000_000, 1_500_000_000)
        clock.now += 19
        display.update(1_500_000_000, 1_500_000_000)
    assert caplog.messages == [
        "downloaded 250 MB of 1.5 GB, 50 MB/s, 25 s left",
        "downloaded 500 MB of 1.5 GB, 50 MB/s, 20 s left",
        "downloaded 1.5 GB of 1.5 GB, 50 MB/s",
    ]


def test_another_total_is_another_download(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with caplog.at_level(logging.INFO), DownloadDisplay(clock) as display:
        display.update(0, 999)
        clock.now += 1
        display.update(999, 999)
        display.update(0, 2000)
        clock.now += 1
        display.update(2000, 2000)
    assert caplog.messages == [
        "downloaded 999 B of 999 B, 999 B/s",
        "downloaded 2 kB of 2 kB, 2 kB/s",
    ]


def test_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with caplog.at_level(logging.INFO), DownloadDisplay() as display:
        display.update(0, 4_000_000)
        display.update(1_000_000, 4_000_000)
        display._bar.refresh()
        shown = sys.stderr.getvalue()
    assert "1.0/4.0 MB" in shown and "download" in shown
    assert caplog.messages == []
