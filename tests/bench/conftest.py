"""`bench`: runs the whole tool against a server and returns its exit code, output and JSON."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from headrace.bench import main


@dataclass
class Outcome:
    exit_code: int
    output: str
    document: dict[str, Any]

    @property
    def run(self) -> dict[str, Any]:
        """The only run."""
        (run,) = self.document["runs"]
        return dict(run)


Bench = Callable[..., Outcome]


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    def run(url: str, *arguments: str) -> Outcome:
        file = tmp_path / "out.json"
        defaults = ["--streams", "4", "--requests", "12", "--max-tokens", "8", "--warmup", "0"]
        chosen = [*defaults[2:], *arguments] if "--rate" in arguments else [*defaults, *arguments]
        exit_code = main(["--url", url, "--json", str(file), *chosen])
        document = json.loads(file.read_bytes()) if file.exists() else {}
        return Outcome(exit_code, " ".join(capsys.readouterr().out.split()), document)

    return run
