"""The whole tool over a real socket: it measures what is right and notices what is not."""

from pathlib import Path

import pytest

from headrace.bench import main
from tests.bench.conftest import Bench
from tests.bench.fake_server import FakeServer


def test_a_right_server_passes(bench: Bench) -> None:
    with FakeServer(cached_tokens=3) as server:
        outcome = bench(server.url, "--ignore-eos")
    assert outcome.exit_code == 0
    assert "requests ok │ 12 │" in outcome.output
    assert "violations │ 0 │" in outcome.output
    run = outcome.run
    assert run["total_output_tokens"] == 12 * 8
    assert run["total_cached_tokens"] == 12 * 3
    assert run["model_id"] == "fake-model"
    assert run["violations"] == {} and run["errors"] == {}
    assert all(body["min_tokens"] == 8 and body["ignore_eos"] for body in server.bodies)
    assert server.num_connections == 4  # one per stream; /models used the first


@pytest.mark.parametrize(
    ("misbehaviour", "violation", "options"),
    [
        ("empty", "empty stream", []),
        ("double", "more chunks than usage.completion_tokens", []),
        ("lost", "tokens listed != usage.completion_tokens", ["--count-tokens"]),
        ("lost", "tokens listed != usage.completion_tokens", ["--count-tokens", "--api", "chat"]),
        ("no-done", "no [DONE]", []),
        ("two-done", "more than one [DONE]", []),
        ("two-done", "data after [DONE]", []),
        ("no-finish", "no finish_reason", []),
        ("two-finish", "more than one finish_reason", []),
        ("text-after-finish", "text after finish_reason", []),
        ("no-usage", "no usage", []),
        ("garbage", "unreadable chunk", []),
        ("wrong-shape", "unreadable chunk", []),
        ("other-text", "same prompt, different text", ["--check-determinism"]),
    ],
)
def test_notices_a_wrong_answer(
    bench: Bench, misbehaviour: str, violation: str, options: list[str]
) -> None:
    with FakeServer(misbehaviour, every=12) as server:  # one of twelve
        outcome = bench(server.url, *options)
    assert outcome.exit_code == 1
    assert outcome.run["violations"][violation] == 1
    assert f"1 x violation: {violation}" in outcome.output
    assert outcome.run["completed"] == 12


@pytest.mark.parametrize(
    ("misbehaviour", "error"),
    [
        ("drop", "the server closed the connection before the answer's end"),
        ("stall", "nothing received for 0.3 s"),
        ("error-event", 'error event: {"message":"out of luck"}'),
        ("status", 'HTTP 503: {"error": {"message": "Model is overloaded"}}'),
    ],
)
def test_notices_a_failure(bench: Bench, misbehaviour: str, error: str) -> None:
    with FakeServer(misbehaviour, every=6) as server:
        outcome = bench(server.url, "--timeout", "0.3")
    assert outcome.exit_code == 1
    assert outcome.run["errors"] == {error: 2}
    assert f"2 x failed: {error}" in outcome.output
    assert (outcome.run["completed"], outcome.run["failed"]) == (10, 2)


def test_notices_too_few_tokens_with_ignore_eos(bench: Bench) -> None:
    with FakeServer(num_tokens=7) as server:
        assert bench(server.url).exit_code == 0
        outcome = bench(server.url, "--ignore-eos")
    assert outcome.exit_code == 1
    assert outcome.run["violations"] == {"fewer tokens than max_tokens with ignore_eos": 12}


def test_notices_more_tokens_than_asked_for(bench: Bench) -> None:
    with FakeServer(num_tokens=9) as server:
        outcome = bench(server.url)
    assert outcome.run["violations"] == {"more tokens than max_tokens": 12}


def test_a_slow_server_shows_in_the_latencies(bench: Bench) -> None:
    with FakeServer(delay=0.02) as server:
        run = bench(server.url, "--requests", "4").run
    assert 18 < run["median_ttft_ms"] < 200
    assert 18 < run["median_itl_ms"] < 200
    assert run["median_tpot_ms"] == pytest.approx(run["mean_itl_ms"], rel=0.6)
    assert run["median_e2el_ms"] > 8 * 18


def test_levels_run_one_after_another_with_fresh_prompts(bench: Bench) -> None:
    with FakeServer(delay=0.005) as server:
        document = bench(server.url, "--streams", "1,3", "--requests", "6").document
        assert server.max_running == 3
    assert [run["max_concurrency"] for run in document["runs"]] == [1, 3]
    prompts = [body["prompt"] for body in server.bodies]
    assert len(set(prompts)) == 12


def test_open_loop_keeps_its_rate_whatever_the_server_does(bench: Bench) -> None:
    with FakeServer(delay=0.05) as server:  # 0.5 s per request
        run = bench(server.url, "--rate", "50", "--requests", "30").run
        assert server.max_running > 10
    assert run["request_rate"] == 50
    assert run["completed"] == 30


def test_duration_ends_the_load(bench: Bench) -> None:
    with FakeServer(delay=0.002) as server:
        run = bench(server.url, "--duration", "0.3", "--requests", "100000").run
    assert 4 < run["completed"] < 1000
    assert 0.3 <= run["duration"] < 2


def test_cancelling_clients_hang_up(bench: Bench) -> None:
    with FakeServer(delay=0.003) as server:
        outcome = bench(server.url, "--cancel-share", "0.5", "--requests", "30")
        run = outcome.run
    assert outcome.exit_code == 0
    assert 5 < run["cancelled"] < 25
    assert run["completed"] + run["cancelled"] == 30
    assert server.num_disconnects == run["cancelled"]


def test_determinism_check_passes_with_cancelled_twins(bench: Bench) -> None:
    with FakeServer() as server:
        outcome = bench(server.url, "--check-determinism", "--cancel-share", "0.4")
    prompts = [body["prompt"] for body in server.bodies]
    assert outcome.exit_code == 0
    assert len(prompts) == 2 * len(set(prompts))


def test_new_connection_for_every_request(bench: Bench) -> None:
    with FakeServer() as server:
        bench(server.url, "--new-connection", "--model", "m")
        assert server.num_connections == 12


def test_what_is_sent(bench: Bench) -> None:
    with FakeServer() as server:
        bench(
            server.url, "--api", "chat", "--api-key", "secret", "--temperature", "0.5",
            "--extra-body", '{"top_k": 5}', "--requests", "1",
        )  # fmt: skip
    (body,) = server.bodies
    assert body["messages"][0]["role"] == "user"
    assert body["temperature"] == 0.5 and body["top_k"] == 5 and body["seed"] == 0
    assert body["stream"] is True and body["stream_options"] == {"include_usage": True}
    assert server.headers[0].startswith("post /v1/chat/completions ")
    assert "authorization: bearer secret\r\n" in server.headers[0]


def test_compare_alternates_with_the_same_prompts(bench: Bench) -> None:
    with FakeServer() as fast, FakeServer(delay=0.02) as slow:
        outcome = bench(fast.url, "--compare", slow.url, "--rounds", "3", "--requests", "4")
    assert outcome.exit_code == 0
    assert sorted(body["prompt"] for body in fast.bodies) == sorted(
        body["prompt"] for body in slow.bodies
    )
    assert [run["url"] for run in outcome.document["runs"]] == [fast.url, slow.url] * 3
    (comparison,) = outcome.document["comparisons"]
    ratios = {ratio["name"]: ratio["median"] for ratio in comparison["ratios"]}
    assert ratios["output_throughput"] > 1.5
    assert ratios["median_itl"] < 0.7


def test_plot(bench: Bench, tmp_path: Path) -> None:
    picture = tmp_path / "plot.png"
    with FakeServer() as server:
        assert bench(server.url, "--streams", "1,2", "--plot", str(picture)).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_plot_of_a_failing_and_a_right_server(bench: Bench, tmp_path: Path) -> None:
    picture = tmp_path / "plot.svg"
    with FakeServer("status") as failing, FakeServer() as right:
        outcome = bench(
            failing.url, "--compare", right.url, "--rounds", "1", "--plot", str(picture)
        )
    assert outcome.exit_code == 1
    assert "<svg" in picture.read_text()
    assert outcome.document["comparisons"][0]["ratios"][1]["median"] is None  # no TTFT


def test_plot_without_matplotlib_says_so_before_the_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with FakeServer() as server:
        assert main(["--url", server.url, "--plot", "x.png"]) == 1
    assert "pip install 'headrace[bench]'" in capsys.readouterr().err
    assert server.num_connections == 0


def test_an_unreachable_server_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeServer() as server:
        url = server.url
    assert main(["--url", url]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"headrace bench: {url}: ")


def test_a_failing_warm_up_ends_the_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeServer("status") as server:
        assert main(["--url", server.url]) == 1
    assert "a warm-up request failed: HTTP 503" in capsys.readouterr().err
