import json
import logging
import re
from collections.abc import Iterator

import pytest

from headrace.observability.logging import setup


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_has_tgi_s_shape(capsys: pytest.CaptureFixture[str]) -> None:
    setup("info", json_output=True)
    logging.getLogger("headrace.serve").warning("Größe %d", 3)
    logging.getLogger("headrace.serve").debug("not shown")
    (text,) = capsys.readouterr().err.splitlines()
    line = json.loads(text)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    assert line == {"level": "WARN", "fields": {"message": "Größe 3"}, "target": "headrace.serve"}


def test_exceptions_stay_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup("info", json_output=True)
    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("x").exception("failed")
    (text,) = capsys.readouterr().err.splitlines()
    assert "KeyError: 'lost'" in json.loads(text)["fields"]["exception"]


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    setup("warn", json_output=False)
    logging.getLogger("x").info("not shown")
    logging.getLogger("x").warning("shown")
    assert capsys.readouterr().err.rstrip().endswith("WARNING x: shown")


def test_unknown_level() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        setup("loud", json_output=False)
