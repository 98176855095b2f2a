"""The commands that TGI's users and images call."""

from pathlib import Path

import pytest

from headrace import __version__, cli


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_launcher_tells_its_version(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["text-generation-launcher", option])
    assert cli.launcher() == 0
    assert capsys.readouterr().out == f"text-generation-launcher {__version__}\n"


@pytest.mark.parametrize("program", ["headrace", "text-generation-server"])
def test_download_weights(
    program: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    entry = {"headrace": cli.main, "text-generation-server": cli.server}[program]
    monkeypatch.setattr("sys.argv", [program, "download-weights", str(tmp_path), "--json-output"])
    assert entry() == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"
    monkeypatch.setattr("sys.argv", [program, "download-weights", str(tmp_path / "none")])
    assert entry() == 1
    assert "no such file or folder" in capsys.readouterr().err


def test_other_commands_of_tgis_server_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["text-generation-server", "serve", "x"])
    with pytest.raises(SystemExit):
        cli.server()
    assert "serve" in capsys.readouterr().err
