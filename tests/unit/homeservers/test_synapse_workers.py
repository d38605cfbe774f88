"""Synapse with databases and workers: what it needs, and which process answers."""

import json
from pathlib import Path

import pytest

from trafficlight.cache import CacheFolder
from trafficlight.homeservers.local.synapse_router import READER
from trafficlight.homeservers.recipes import postgres, synapse_workers
from trafficlight.homeservers.recipes.recipe import Installation, Place
from trafficlight.homeservers.recipes.synapse_workers import PostgresSynapseRecipe, WorkersSynapseRecipe


@pytest.mark.parametrize("recipe", [PostgresSynapseRecipe, WorkersSynapseRecipe])
def test_without_postgresql_it_says_which_command_brings_it(
    recipe: type[PostgresSynapseRecipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "program", lambda _: None)
    reason = recipe(CacheFolder(tmp_path), print).unsupported("stable")
    assert reason is not None
    assert "needs PostgreSQL: apt-get install postgresql" in reason
    assert postgres.major() == ""


def test_without_redis_only_workers_are_unsupported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "missing", lambda: None)
    monkeypatch.setattr(synapse_workers, "_redis", lambda: None)
    assert PostgresSynapseRecipe(CacheFolder(tmp_path), print).unsupported("stable") is None
    reason = WorkersSynapseRecipe(CacheFolder(tmp_path), print).unsupported("stable")
    assert reason is not None
    assert reason.startswith(
        "Synapse with workers needs Redis, which is not on the PATH: apt-get install redis"
    )


def test_no_process_listens_beyond_its_folder_but_the_router(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "copy", lambda _template, cluster: cluster.mkdir())
    files = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    place = Place(tmp_path, tmp_path / "log", 18000, 18001, *files)
    recipe = WorkersSynapseRecipe(CacheFolder(tmp_path), print)
    command = recipe.configure(Installation("1.163.2", tmp_path, "Synapse"), place)
    assert [one.name for one in (*command.services, *command.workers)] == [
        "postgres", "redis", "reader", "sender", "writer", "router"
    ]  # fmt: skip
    configs = [json.loads((tmp_path / "homeserver.yaml").read_text())["listeners"]]
    configs += [json.loads(file.read_text())["worker_listeners"] for file in tmp_path.glob("[rsw]*.yaml")]
    listeners = [listener for config in configs for listener in config]
    assert len(listeners) == 4
    assert all(Path(listener["path"]).parent == tmp_path for listener in listeners)
    router = json.loads(command.workers[-1].argv[-1])
    assert router["ports"] == [18000, 18001]
    assert {router["main"], router["reader"]} <= {listener["path"] for listener in listeners}


@pytest.mark.parametrize(
    "path",
    [
        "/_matrix/client/v3/sync",
        "/_matrix/client/v3/register",
        "/_matrix/client/v3/rooms/!a%3Ab/send/m.room.message/1",
        "/_matrix/client/v3/rooms/!a%3Ab/state",
        "/_matrix/client/v3/rooms/!a%3Ab/state/m.room.name/",
        "/_matrix/client/v1/rooms/!a%3Ab/relations/$e",
        "/_matrix/federation/v1/send/123",
        "/_matrix/federation/v2/invite/!a/$b",
        "/_matrix/federation/v1/state_ids/!a",
    ],
)
def test_a_worker_answers(path: str) -> None:
    assert READER.match(path)


@pytest.mark.parametrize(
    "path",
    [
        "/_matrix/client/versions",
        "/_matrix/client/v3/keys/upload",
        "/_matrix/client/v3/rooms/!a/typing/@b",
        "/_matrix/client/v3/rooms/!a/receipt/m.read/$c",
        "/_matrix/client/v3/sendToDevice/m.room.encrypted/1",
        "/_matrix/client/v3/user/@a/account_data/m.direct",
        "/_matrix/client/v3/presence/@a/status",
        "/_matrix/client/v3/devices",
        "/_matrix/key/v2/server",
        "/_matrix/federation/v1/version",
        "/_synapse/admin/v1/register",
        "/_matrix/media/v3/upload",
    ],
)
def test_the_main_process_answers(path: str) -> None:
    assert not READER.match(path)
