"""Settings: where each one is taken from, and the errors for wrong ones."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from trafficlight.config import AdapterProgram, DockerHost, Settings, key_of, load
from trafficlight.errors import ConfigError

_SAMPLE = Path(__file__).parents[2] / "trafficlight-sample.json"


def _write(path: Path, content: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def _load(
    directory: Path, flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    return load(flags, environment=environment or {}, directory=directory)


def _problem(
    directory: Path, flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> str:
    with pytest.raises(ConfigError) as caught:
        _load(directory, flags, environment)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    assert _load(tmp_path) == Settings()


def test_flags_go_before_the_environment_before_the_file(tmp_path: Path) -> None:
    _write(tmp_path / "trafficlight.json", {"PORT": 1, "HOST": "::1", "GRACE": 1})
    environment = {"TRAFFICLIGHT_PORT": "2", "TRAFFICLIGHT_HOST": "127.0.0.2"}

    settings = _load(tmp_path, {"port": 3}, environment)

    assert (settings.port, settings.host, settings.grace) == (3, "127.0.0.2", 1)


def test_flags_that_were_not_given_do_not_count(tmp_path: Path) -> None:
    assert _load(tmp_path, {"port": None}, {"TRAFFICLIGHT_PORT": "2"}).port == 2


def test_the_file_in_the_directory_goes_before_the_one_in_instance(tmp_path: Path) -> None:
    _write(tmp_path / "instance" / "trafficlight.json", {"PORT": 1, "GRACE": 1})
    assert _load(tmp_path).port == 1

    _write(tmp_path / "trafficlight.json", {"PORT": 2})
    settings = _load(tmp_path)
    assert (settings.port, settings.grace) == (2, Settings().grace)


def test_a_named_file_takes_the_place_of_the_others(tmp_path: Path) -> None:
    _write(tmp_path / "trafficlight.json", {"PORT": 1})
    named = _write(tmp_path / "other.json", {"GRACE": 2})

    settings = load(environment={}, directory=tmp_path, file=named)

    assert (settings.port, settings.grace) == (0, 2)


def test_a_named_file_that_is_missing_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.json"

    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load(environment={}, directory=tmp_path, file=missing)

    assert str(missing) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"PORT": ' + "9" * 5000 + "}", "is not JSON"),
        ("[]", "must hold one JSON object"),
        ('"PORT"', "must hold one JSON object"),
        ('{"PORT": 1, "HOST": "a", "PORT": 2}', "the key PORT is there twice"),
        ('{"ADAPTERS": {"nio": 1, "nio": 2}}', "the key nio is there twice"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, content: str, words: str) -> None:
    file = _write(tmp_path / "trafficlight.json", content)

    message = _problem(tmp_path)

    assert str(file) in message
    assert words in message


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "trafficlight.json").write_bytes(b"\xff\xfe\x00")

    assert str(tmp_path / "trafficlight.json") in _problem(tmp_path)


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ConfigError, match="cannot be read: it is a named pipe"):
        load(environment={}, directory=tmp_path, file=tmp_path / "pipe")


def test_a_file_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: it has more than 64 Mi characters"):
        load(environment={}, directory=tmp_path, file=Path("/dev/zero"))


def test_the_pipe_of_a_shell_is_read(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b'{"PORT": 7}')
    os.close(writer)

    assert load(environment={}, directory=tmp_path, file=Path(f"/dev/fd/{reader}")).port == 7
    os.close(reader)


def test_settings_without_effect_are_accepted_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = _write(tmp_path / "trafficlight.json", {"KIWI_REPORT": False, "WARM_SERVERS": 2, "PORT": 1})

    settings = load(environment={"TRAFFICLIGHT_KIWI_URL": "https://kiwi"}, directory=tmp_path)

    assert settings.port == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"{file}: KIWI_REPORT has no effect: REPORTERS configures reporters",
        f"{file}: WARM_SERVERS has no effect: no homeserver is started before its case",
        "environment variable TRAFFICLIGHT_KIWI_URL: KIWI_URL has no effect: REPORTERS configures reporters",
    ]


@pytest.mark.parametrize(
    ("content", "key", "words"),
    [
        ({"PROT": 1}, "PROT", "unknown key; did you mean PORT?"),
        ({"port": 1}, "port", "unknown key; did you mean PORT?"),
        ({"NO_SUCH_THING_AT_ALL": 1}, "NO_SUCH_THING_AT_ALL", "unknown key"),
        ({"PORT": "many"}, "PORT", "'many'"),
        ({"PORT": 65536}, "PORT", "65536"),
        ({"PORT": -1}, "PORT", "-1"),
        ({"POLL_HOLD": 30}, "POLL_HOLD", "30"),
        ({"CASE_DEADLINE": 0}, "CASE_DEADLINE", "0"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL", "'loud'"),
        ({"ADAPTERS": {"nio": {"count": -1}}}, "ADAPTERS.nio.count", "-1"),
        ({"ADAPTERS": {"nio": {"number": 1}}}, "ADAPTERS.nio.number", ""),
        ({"ADAPTERS": {"nio": 100_000}}, "ADAPTERS.nio.count", "100000"),
        ({"ADAPTERS": {"a": {"env": {"A=B": "c"}}}}, "ADAPTERS.a.env.A=B.[key]", "name of an environment"),
        ({"ADAPTERS": {"a": {"env": {"A": "x\0y"}}}}, "ADAPTERS", "null character"),
        ({"RESULTS_FOLDER": "a\0b"}, "RESULTS_FOLDER", "null character"),
        ({"RESULTS_FOLDER": "a\ud800b"}, "RESULTS_FOLDER", "half a surrogate pair"),
        ({"WORKER_MEMORY": 1}, "WORKER_MEMORY", "must be 0, or at least 134217728"),
        ({"CLIENT_LIMITS": {"Nio": 0}}, "CLIENT_LIMITS.Nio", "0"),
        ({"SERVER_PROVIDERS": {"SynapseStable": "cloud"}}, "SERVER_PROVIDERS.SynapseStable", "'cloud'"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_file(
    tmp_path: Path, content: dict[str, Any], key: str, words: str
) -> None:
    file = _write(tmp_path / "trafficlight.json", content)

    message = _problem(tmp_path)

    assert message.startswith(f"{file}: {key}: ")
    assert words in message


def test_a_wrong_value_in_the_environment_is_named_with_its_variable(tmp_path: Path) -> None:
    message = _problem(tmp_path, environment={"TRAFFICLIGHT_PORT": "many"})

    assert "TRAFFICLIGHT_PORT" in message
    assert "'many'" in message


def test_an_unknown_variable_is_named(tmp_path: Path) -> None:
    message = _problem(tmp_path, environment={"TRAFFICLIGHT_PROT": "1"})

    assert "TRAFFICLIGHT_PROT" in message
    assert "did you mean PORT?" in message


def test_a_wrong_flag_is_named(tmp_path: Path) -> None:
    message = _problem(tmp_path, {"port": "many"})

    assert message.startswith("command line: PORT: ")


def test_what_adapters_are_told_is_no_setting(tmp_path: Path) -> None:
    environment = {"TRAFFICLIGHT_URL": "http://127.0.0.1:1", "TRAFFICLIGHT_INSTANCE": "7", "PATH": "/bin"}

    assert _load(tmp_path, environment=environment) == Settings()


def test_the_environment_holds_objects_and_lists_as_json(tmp_path: Path) -> None:
    environment = {
        "TRAFFICLIGHT_ADAPTERS": '{"nio": 2, "mine": {"command": "run-mine", "count": 3}}',
        "TRAFFICLIGHT_HOMERUNNER_URL": '["http://127.0.0.1:1", "http://127.0.0.1:2"]',
    }

    settings = _load(tmp_path, environment=environment)

    assert settings.adapters == {
        "nio": AdapterProgram(count=2),
        "mine": AdapterProgram(command="run-mine", count=3),
    }
    assert settings.homerunner_url == ["http://127.0.0.1:1", "http://127.0.0.1:2"]


def test_an_object_in_the_environment_that_is_no_json_is_named(tmp_path: Path) -> None:
    message = _problem(tmp_path, environment={"TRAFFICLIGHT_ADAPTERS": "nio=2"})

    assert "TRAFFICLIGHT_ADAPTERS" in message
    assert "is not JSON" in message


def test_an_empty_variable_means_null(tmp_path: Path) -> None:
    _write(tmp_path / "trafficlight.json", {"CASE_LIMIT": 3})

    assert _load(tmp_path, environment={"TRAFFICLIGHT_CASE_LIMIT": ""}).case_limit is None


@pytest.mark.parametrize("key", ["STRICT", "HOST", "PORT", "ADAPTERS", "CASE_DEADLINE"])
def test_an_empty_variable_of_a_setting_without_null_does_not_count(tmp_path: Path, key: str) -> None:
    """It was an error about `None`, which the user had not given."""
    assert _load(tmp_path, environment={f"TRAFFICLIGHT_{key}": ""}) == Settings()


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
@pytest.mark.parametrize("key", ["CASE_DEADLINE", "DOCKER_CPUS", "SESSION_DEADLINE", "POLL_HOLD"])
def test_numbers_are_finite(tmp_path: Path, key: str, number: str) -> None:
    _write(tmp_path / "trafficlight.json", f'{{"{key}": {number}}}')
    assert str(tmp_path) in _problem(tmp_path)
    (tmp_path / "trafficlight.json").unlink()
    assert key in _problem(tmp_path, environment={f"TRAFFICLIGHT_{key}": number})
    assert key in _problem(tmp_path, {key.lower(): float(number)})


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "trafficlight.json").write_bytes(b'\xef\xbb\xbf{"PORT": 7}')
    assert _load(tmp_path).port == 7


def test_paths_may_begin_with_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There was a folder that was called `~`, which is dangerous to remove."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folders = dict.fromkeys(("RESULTS_FOLDER", "UPLOAD_FOLDER", "CACHE_FOLDER"), "~/x")
    docker = {"url": "tcp://lab2:2376", "certificates": "~/x"}
    adapters = {"mine": {"command": "mine", "cwd": "~/x"}}
    _write(tmp_path / "trafficlight.json", folders | {"DOCKER_ENGINE": docker, "ADAPTERS": adapters})
    settings = _load(tmp_path)
    assert settings.docker_engine is not None
    assert {
        settings.results_folder,
        settings.upload_folder,
        settings.cache_folder,
        settings.docker_engine.certificates,
        settings.adapters["mine"].cwd,
    } == {tmp_path / "x"}
    assert "unknown user" in _problem(tmp_path, {"results_folder": "~no-such-user/x"})


def test_a_glob_is_complete(tmp_path: Path) -> None:
    assert "TEST_PATTERN: must be a glob: a [ in it is not closed" in _problem(
        tmp_path, {"test_pattern": "["}
    )
    assert _load(tmp_path, {"test_pattern": "[a-z]*.py"}).test_patterns == ("[a-z]*.py",)


def test_an_empty_host_is_not_every_address(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="HOST: must have at least 1 char"):
        load({"host": ""}, environment={}, directory=tmp_path)


@pytest.mark.parametrize("token", ["", " ", "\t\n"])
@pytest.mark.parametrize("key", ["PEOPLE_TOKEN", "ADAPTER_TOKEN"])
def test_a_blank_token_is_an_error(tmp_path: Path, key: str, token: str) -> None:
    """It opened the pages: an unset secret of a CI job is an empty variable."""
    message = _problem(tmp_path, environment={f"TRAFFICLIGHT_{key}": token})
    assert f"{key}: must not be empty" in message
    _write(tmp_path / "trafficlight.json", {key: token})
    assert f"{key}: must not be empty" in _problem(tmp_path)


def test_one_homerunner_needs_no_list(tmp_path: Path) -> None:
    _write(tmp_path / "trafficlight.json", {"HOMERUNNER_URL": "http://127.0.0.1:54321"})

    assert _load(tmp_path).homerunner_url == ["http://127.0.0.1:54321"]


@pytest.mark.parametrize(
    ("values", "folder"),
    [
        ({}, Path("results")),
        ({"UPLOAD_FOLDER": "/srv/uploads"}, Path("/srv/uploads")),
        ({"UPLOAD_FOLDER": "/srv/uploads", "RESULTS_FOLDER": "/srv/results"}, Path("/srv/results")),
    ],
)
def test_the_name_of_old_for_the_results_folder_still_counts(
    tmp_path: Path, values: dict[str, str], folder: Path
) -> None:
    _write(tmp_path / "trafficlight.json", values)

    assert _load(tmp_path).results_root == folder


def test_secrets_are_neither_shown_nor_told(tmp_path: Path) -> None:
    _write(tmp_path / "trafficlight.json", {"ADAPTER_TOKEN": "hush", "PEOPLE_TOKEN": "hush"})
    settings = _load(tmp_path)

    assert "hush" not in repr(settings)
    assert "hush" not in json.dumps(settings.public())
    assert settings.adapter_token is not None
    assert settings.adapter_token.get_secret_value() == "hush"


def test_passwords_in_commands_and_urls_are_not_shown(tmp_path: Path) -> None:
    settings = {
        "ADAPTERS": {
            "a": {"command": "python adapter.py --password hush {url}", "env": {"KEY": "hush"}},
            "b": "node adapter.mjs hush",
        },
        "DOCKER_ENGINE": "https://me:hush@docker.example:2376",
        "SERVER_OVERRIDES": {"SynapseStable": {"server_name": "a", "cs_api": "https://me:hush@a.example"}},
    }
    _write(tmp_path / "trafficlight.json", settings)
    loaded = _load(tmp_path)
    assert loaded.adapters["b"].command == "node adapter.mjs hush"
    shown = loaded.public()
    assert "hush" not in json.dumps(shown)
    assert shown["ADAPTERS"]["a"]["command"] == "python ***"
    assert shown["DOCKER_ENGINE"]["url"] == "https://***@docker.example:2376"


def test_a_secret_of_the_wrong_type_is_not_told(tmp_path: Path) -> None:
    file = _write(tmp_path / "trafficlight.json", {"PEOPLE_TOKEN": ["hush"]})

    message = _problem(tmp_path)

    assert message.startswith(f"{file}: PEOPLE_TOKEN: ")
    assert "hush" not in message


def test_the_sample_file_is_valid_and_states_every_setting(tmp_path: Path) -> None:
    read = json.loads(_SAMPLE.read_text(encoding="utf-8"))

    assert list(read) == [key_of(field) for field in Settings.model_fields], (
        "regenerate the sample with: .venv/bin/python scripts-dev/reference.py"
    )
    assert load(environment={}, directory=tmp_path, file=_SAMPLE) == Settings()


@pytest.mark.parametrize(
    "text",
    [
        "tcp://lab2:2376",
        '["tcp://lab2:2376"]',
        '{"url": "tcp://lab2:2376"}',
        '[{"url": "tcp://lab2:2376"}]',
    ],
)
def test_a_docker_engine_is_a_url_or_an_object(tmp_path: Path, text: str) -> None:
    for name in ("DOCKER_ENGINE", "DOCKER_ENGINES"):
        settings = _load(tmp_path, environment={f"TRAFFICLIGHT_{name}": text})
        assert settings.docker_engine == DockerHost(url="tcp://lab2:2376")


def test_no_docker_engine_is_the_default_one(tmp_path: Path) -> None:
    assert _load(tmp_path, environment={"TRAFFICLIGHT_DOCKER_ENGINES": "[]"}).docker_engine is None


def test_several_docker_engines_are_refused(tmp_path: Path) -> None:
    _write(tmp_path / "trafficlight.json", {"DOCKER_ENGINES": ["tcp://lab2:2376", "tcp://lab3:2376"]})
    assert "DOCKER_ENGINE: must name one engine, not several" in _problem(tmp_path)


def test_what_is_wrong_with_a_docker_engine_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "trafficlight.json", {"DOCKER_ENGINE": {"url": "tcp://lab2:2376", "cert": "/x"}})
    assert "DOCKER_ENGINE.cert" in _problem(tmp_path)
