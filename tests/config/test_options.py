"""Flags and environment variables become settings."""

import dataclasses
from typing import Any

import pytest

from headrace import config
from headrace.config.settings import DEFAULT_DRAFTS, MAX_DRAFTS
from headrace.errors import StartupError


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("dtype", "bfloat16", "bfloat16"),
        ("rope_scaling", "dynamic", "dynamic"),
        ("rope_factor", "2.5", 2.5),
        ("port", "99", 99),
        ("api_key", "secret", "secret"),
        ("tgi_compat", "true", True),
    ],
)
def test_flag_and_environment_say_the_same(name: str, text: str, value: Any) -> None:
    option = "--" + name.replace("_", "-")
    argv = [option] if value is True else [option, text]
    flags, _ = config.parse(argv, prog="headrace")
    environment, _ = config.resolve({}, {name.upper(): text})
    assert getattr(flags, name) == getattr(environment, name) == value


def test_a_flag_beats_its_variable() -> None:
    settings, _ = config.resolve({"port": 1}, {"PORT": "2"}, {"port": 3})
    assert settings.port == 1


def test_every_flag_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        config.parse(["--help"], prog="headrace")
    text = capsys.readouterr().out
    for field in dataclasses.fields(config.Settings):
        assert "--" + field.name.replace("_", "-") in text


@pytest.mark.parametrize(
    ("given", "environment", "port"),
    [
        ({}, {"AIP_HTTP_PORT": "8085"}, 8085),
        ({}, {"AIP_HTTP_PORT": "8085", "PORT": "2"}, 2),
        ({"port": 3}, {"AIP_HTTP_PORT": "8085"}, 3),
    ],
)
def test_vertex_ai_names_the_port(
    given: dict[str, Any], environment: dict[str, str], port: int
) -> None:
    settings, _ = config.resolve(given, environment, {"port": 8080})
    assert settings.port == port


def test_vertex_ai_paths_begin_with_a_slash() -> None:
    with pytest.raises(StartupError, match="AIP_PREDICT_ROUTE"):
        config.resolve({}, {"AIP_PREDICT_ROUTE": "predict"})


def test_names_of_sagemaker() -> None:
    environment = {"HF_MODEL_ID": "theirs", "HF_MODEL_REVISION": "r", "SM_NUM_GPUS": "1"}
    settings, _ = config.resolve({}, environment)
    assert (settings.model_id, settings.revision, settings.num_shard) == ("theirs", "r", 1)
    settings, _ = config.resolve({}, environment | {"MODEL_ID": "ours"})
    assert settings.model_id == "ours"


@pytest.mark.parametrize("name", config.IGNORED_ENVIRONMENT)
def test_names_without_effect_are_warned_about(name: str) -> None:
    _, warnings = config.resolve({}, {name: "1"})
    assert any(name in warning for warning in warnings)


def test_wrong_choice_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        config.parse(["--dtype", "int3"], prog="headrace")
    assert "float16" in capsys.readouterr().err
    with pytest.raises(StartupError, match="DTYPE"):
        config.resolve({}, {"DTYPE": "int3"})


@pytest.mark.parametrize(
    ("flags", "devices", "num_shard"),
    [
        ({}, None, 1),
        ({}, "0,1,2,3", 4),
        ({}, "-1", 1),
        ({}, "", 1),
        ({"device": "cpu"}, "0,1", 1),
        ({"num_replica": 2}, "0,1,2,3", 2),
        ({"num_shard": 3}, "0,1", 3),
        ({"sharded": "false"}, "0,1", 1),
        ({"sharded": "true"}, "0,1", 2),
        ({"sharded": "true", "num_shard": 3}, None, 3),
    ],
)
def test_number_of_ranks(flags: dict[str, Any], devices: str | None, num_shard: int) -> None:
    environment = {} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}
    assert config.resolve(flags, environment)[0].num_shard == num_shard


@pytest.mark.parametrize(
    "flags", [{"num_shard": 0}, {"sharded": "true"}, {"sharded": "true", "num_shard": 1}]
)
def test_numbers_of_ranks_that_contradict_are_refused(flags: dict[str, Any]) -> None:
    with pytest.raises(StartupError, match="--num-shard"):
        config.resolve(flags, {"CUDA_VISIBLE_DEVICES": "0"})


def test_the_load_of_a_replica_means_nothing_to_a_fixed_number_of_them() -> None:
    _, warnings = config.resolve({"replica_requests": 8}, {})
    assert warnings == ["--replica-requests has no effect without --max-replica"]
    growing = {"replica_requests": 8, "max_replica": 2, "ray": True}
    assert config.resolve(growing, {})[1] == []


def test_speculate() -> None:
    silent, three = config.resolve({}, {})[0], config.resolve({}, {"SPECULATE": "3"})[0]
    assert silent.max_num_drafts(has_drafter=False) == 0
    assert silent.max_num_drafts(has_drafter=True) == DEFAULT_DRAFTS
    assert three.max_num_drafts(has_drafter=False) == 3
    assert three.max_num_drafts(has_drafter=True) == 3
    for value in (-1, MAX_DRAFTS + 1):
        with pytest.raises(StartupError, match="--speculate must be 0 to"):
            config.resolve({"speculate": value}, {})


@pytest.mark.parametrize("gamma", ["0", "1", "-0.5"])
def test_a_watermark_has_a_share(gamma: str) -> None:
    with pytest.raises(StartupError, match="--watermark-gamma"):
        config.resolve({}, {"WATERMARK_GAMMA": gamma})
