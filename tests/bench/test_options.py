import pytest

from headrace.bench.options import parse_options


def test_lists_of_levels() -> None:
    assert parse_options(["--streams", "1,8,32"]).streams == (1, 8, 32)
    assert parse_options(["--rate", "0.5,2"]).rates == (0.5, 2.0)
    assert parse_options([]).streams == (8,)
    assert parse_options(["--rate", "1"]).streams == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--streams", "0"], "--streams"),
        (["--streams", "1,x"], "--streams"),
        (["--streams", "1", "--rate", "1"], "not allowed with"),
        (["--rate", "inf"], "--rate"),
        (["--temperature", "nan"], "--temperature"),
        (["--cancel-share", "1.5"], "--cancel-share"),
        (["--extra-body", "[1]"], "--extra-body"),
        (["--check-determinism", "--temperature", "1"], "--check-determinism"),
        (["--cancel-share", "0.5", "--max-tokens", "1"], "--cancel-share"),
        (["--prompts", "f", "--shared-prefix-tokens", "9"], "--shared-prefix-tokens"),
        (["--compare-model", "m"], "--compare-model"),
    ],
)
def test_wrong_arguments_are_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exit:
        parse_options(arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
