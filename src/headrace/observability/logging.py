"""Log lines: for people, or in TGI's JSON shape."""

import datetime
import json
import logging
import sys

LEVELS = {"trace": "DEBUG", "warn": "WARNING", "off": "CRITICAL"}
"""Names that TGI accepts and Python does not know."""


class JsonFormatter(logging.Formatter):
    """`{"timestamp", "level", "fields": {"message"}, "target"}`, as TGI's launcher prints."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        fields = {"message": record.getMessage()}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        line = {
            "timestamp": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": "WARN" if record.levelno == logging.WARNING else record.levelname,
            "fields": fields,
            "target": record.name,
        }
        return json.dumps(line, ensure_ascii=False)


def setup(level: str, json_output: bool) -> None:
    """Send all log lines to standard error. Raises ValueError for an unknown level."""
    handler = logging.StreamHandler(sys.stderr)
    if json_output:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(
        level=LEVELS.get(level.lower(), level.upper()), handlers=[handler], force=True
    )
