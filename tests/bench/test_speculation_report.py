"""The figures of the benchmark of speculation, by hand."""

import pytest

from bench.speculation_report import Measurement, Results, figures, table


def results() -> Results:
    off = Measurement(["a"], num_tokens=100, duration=2.0, cpu=4.0, decoding=1.0)
    on = Measurement(
        ["a"],
        num_tokens=100,
        num_drafted=80,
        num_accepted=60,
        num_draft_steps=20,
        duration=1.0,
        cpu=1.0,
        decoding=0.4,
    )
    peer = Measurement(["a"], num_tokens=10, duration=1.0), Measurement(["b"], 10, duration=2.0)
    return Results(
        {("headrace", "copy", 1): [(off, on)], ("peer", "copy", 1): [peer]},
        {("headrace", "copy", 1): [{"whole": 3.0, "decoding": 4.0}]},
        ["llama does not run here"],
    )


def test_a_case_says_how_it_was_and_what_was_possible() -> None:
    ours, peer = figures(results())
    expected = {
        "ratio": 2.0,
        "decode_ratio": 2.5,
        "cpu_ratio": 4.0,
        "bound": 3.0,
        "decode_bound": 4.0,
        "accepted": 0.75,
        "accepted_length": 3.0,
        "drafted_per_token": 0.8,
        "wasted_per_token": 0.2,
        "same_texts": True,
    }
    assert {name: ours[name] for name in expected} == pytest.approx(expected)
    assert (peer["ratio"], peer["bound"], peer["same_texts"]) == (0.5, None, False)


def test_the_table_has_a_line_for_each_case_and_note() -> None:
    lines = table(results()).splitlines()
    assert [line[:9] for line in lines[2:]] == ["| headrac", "| peer | ", "llama doe"]
    assert len({line.count("|") for line in lines[:4]}) == 1
