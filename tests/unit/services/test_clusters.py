"""Which nodes the settings name."""

import json
import logging
import re
import stat
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from trafficlight.config import DockerHost
from trafficlight.errors import ConfigError
from trafficlight.homeservers.docker import nodes as docker
from trafficlight.parameters import NodeRequest, cluster, matrix, nodes_of
from trafficlight.services import clusters
from trafficlight.services.clusters import Cluster
from trafficlight.test import Test

# What Vagrant 2.3 prints for two machines.
VAGRANT = """Host alpha
  HostName 127.0.0.1
  User vagrant
  Port 2222
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  PasswordAuthentication no
  IdentityFile "/home/x/.vagrant/machines/alpha/virtualbox/private_key"
  IdentitiesOnly yes
  LogLevel FATAL

Host beta
  HostName 10.0.0.2
  User vagrant
  Port 22
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  PasswordAuthentication no
  IdentityFile "/home/x/.vagrant/machines/beta/virtualbox/private_key"
  IdentitiesOnly yes
  LogLevel FATAL
"""


def _no_containers(image: str) -> AbstractAsyncContextManager[Cluster]:
    pytest.fail(f"asked for containers of {image}")


def _open(setting: str, command: str = "") -> AbstractAsyncContextManager[Cluster]:
    return clusters.open_cluster(setting, command, _no_containers)


class TestSetting:
    async def test_names_of_ssh_config(self) -> None:
        async with _open("ssh:alpha,beta") as found:
            names = [(node.name, node.ssh is not None) for node in found.busy]
        assert names == [("alpha", True), ("beta", True)]
        assert found.limited

    async def test_a_list_as_yaml_or_json(self, tmp_path: Path) -> None:
        (tmp_path / "nodes.yml").write_text(
            "- alpha\n- {host: 10.0.0.1, name: beta, labels: [ssd], port: 22}\n"
        )
        listed = ["alpha", {"host": "10.0.0.1", "name": "beta", "labels": ["ssd"], "port": 22}]
        (tmp_path / "nodes.json").write_text(json.dumps(listed))
        async with _open(str(tmp_path / "nodes.yml")) as yaml, _open(str(tmp_path / "nodes.json")) as by_json:
            assert yaml.busy == by_json.busy
            assert yaml.busy[1].labels == {"ssd"}

    async def test_what_a_command_prints(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        async with _open("local", "echo progress >&2; echo '[\"alpha\"]'") as found:
            assert [node.name for node in found.busy] == ["alpha"]
        assert "CLUSTER_COMMAND: progress" in caplog.text

    @pytest.mark.parametrize(
        ("command", "problem"),
        [
            ("echo no state >&2; exit 3", "CLUSTER_COMMAND: exit code 3: no state"),
            (
                "sleep 1000 & sleep 1000",
                "CLUSTER_COMMAND: 'sleep 1000 & sleep 1000' did not end within 0.5 s",
            ),
            ("true", "CLUSTER_COMMAND: 'true' printed nothing"),
            (f"true\n{'x ' * 100}|| true", f"CLUSTER_COMMAND: 'true {'x ' * 36}...' printed nothing"),
            ("head -c 2000000 /dev/zero", "CLUSTER_COMMAND: a line of its output is longer than 1 MiB"),
            ("echo '{', 1", "the output of CLUSTER_COMMAND: is neither JSON nor YAML: line 1"),
            ("echo '{\"nodes\": []}'", "the output of CLUSTER_COMMAND: must be a list"),
            ("echo '[{\"host\": 1}]'", "the output of CLUSTER_COMMAND: node 0.host: "),
        ],
    )
    async def test_a_command_that_fails(
        self, monkeypatch: pytest.MonkeyPatch, command: str, problem: str
    ) -> None:
        if "sleep" in command:
            monkeypatch.setattr(clusters, "_COMMAND", 0.5)
        with pytest.raises(ConfigError) as caught:
            async with _open("local", command):
                pytest.fail("it was opened")
        assert str(caught.value).startswith(problem)
        assert "\n" not in str(caught.value)

    async def test_machines_of_vagrant(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "vagrant").write_text(f"#!/bin/sh\ncd {tmp_path} && exec cat printed\n")
        (tmp_path / "vagrant").chmod(0o755)
        (tmp_path / "printed").write_text(VAGRANT)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        async with _open(f"vagrant:{tmp_path}") as found:
            assert [(node.name, node.host) for node in found.busy] == [
                ("alpha", "127.0.0.1"),
                ("beta", "10.0.0.2"),
            ]
            assert found.busy[0].ssh is not None
            config = found.busy[0].ssh.config
            assert config is not None
            assert config.read_text().count("UserKnownHostsFile none\n") == 2
            assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert not config.exists()

    async def test_no_machine_of_vagrant(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "vagrant").write_text("#!/bin/sh\n")
        (tmp_path / "vagrant").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        with pytest.raises(ConfigError, match=r"^CLUSTER: 'vagrant ssh-config' printed nothing$"):
            async with _open(f"vagrant:{tmp_path}"):
                pytest.fail("it was opened")

    async def test_containers_are_reached_as_homeservers_are(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")  # meant for another engine
        plain = docker._docker("unix:///x.sock", DockerHost(url="unix:///x.sock"))
        assert plain[-3:] == ("docker", "-H", "unix:///x.sock")
        host = DockerHost(url="https://lab:2376", certificates=tmp_path)
        assert docker._docker(host.url, host)[plain.index("docker") :] == (
            *("docker", "-H", "tcp://lab:2376", "--tlsverify", f"--tlscacert={tmp_path}/ca.pem"),
            *(f"--tlscert={tmp_path}/cert.pem", f"--tlskey={tmp_path}/key.pem"),
        )

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("[]", "names no node"),
            ("[a, a]", "names the node a twice"),
            ("[{host: a, prot: 1}]", "node 0.prot: "),
            ("a", "list"),
            ("[", "is neither JSON nor YAML"),
        ],
    )
    async def test_what_is_wrong_with_a_list(self, tmp_path: Path, content: str, problem: str) -> None:
        path = tmp_path / "nodes.yml"
        path.write_text(content)
        with pytest.raises(ConfigError) as caught:
            async with _open(str(path)):
                pytest.fail("it was opened")
        assert problem in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    async def test_what_is_no_cluster(self) -> None:
        with pytest.raises(
            ConfigError, match=r"CLUSTER: 'loca' is neither local, docker:IMAGE, .* nor a file"
        ):
            async with _open("loca"):
                pytest.fail("it was opened")


class TestUnsupported:
    async def test_more_than_there_are(self) -> None:
        async with _open("ssh:a,b") as found:
            assert found.unsupported(NodeRequest(2)) is None
        why = "needs 3 nodes; the cluster has 2 of 2 such nodes"
        assert found.unsupported(NodeRequest(3)) == why
        assert found.unsupported(NodeRequest(1, ("ssd",))) == (
            "needs 1 node with label ssd; the cluster has 0 of 2 such nodes"
        )

    async def test_labels_of_nodes_that_are_made(self) -> None:
        async with _open("local") as found:
            assert found.unsupported(NodeRequest(1000)) is None
        assert found.unsupported(NodeRequest(1, ("ssd",))) == (
            "needs 1 node with label ssd; the cluster makes plain linux nodes"
        )


class TestDecorator:
    def test_the_nearest_counts(self) -> None:
        @cluster(num_nodes=3, labels="ssd")
        class Three(Test):
            async def test_three(self) -> None: ...

            @cluster(num_nodes=1)
            async def test_one(self) -> None: ...

            @cluster(num_nodes=0)
            async def test_none(self) -> None: ...

        assert nodes_of(Three.test_three, Three) == NodeRequest(3, ("ssd",))
        assert nodes_of(Three.test_one, Three) == NodeRequest(1)
        assert nodes_of(Three.test_none, Three) is None

    def test_a_number_that_depends_on_parameters(self) -> None:
        class Growing(Test):
            @matrix(brokers=[0, 1, 3])
            @cluster(num_nodes=lambda brokers: brokers and brokers + 1, labels="ssd")
            async def run(self, brokers: int) -> None: ...

        requests = [nodes_of(Growing.run, Growing, {"brokers": number}) for number in (0, 1, 3)]
        assert requests == [None, NodeRequest(2, ("ssd",)), NodeRequest(4, ("ssd",))]

    @pytest.mark.parametrize(
        ("function", "problem"),
        [
            (lambda borkers: borkers, "there is no parameter 'borkers' (parameters: brokers)"),
            (lambda brokers: brokers / 0, "ZeroDivisionError: division by zero"),
            (lambda brokers: -brokers, "returned -1, which is no number of nodes"),
        ],
    )
    def test_a_number_that_cannot_be_computed(self, function: Callable[..., int], problem: str) -> None:
        class Growing(Test):
            @cluster(num_nodes=function)
            async def run(self, brokers: int) -> None: ...

        with pytest.raises(ValueError, match=f"^num_nodes of @cluster:? {re.escape(problem)}$"):
            nodes_of(Growing.run, Growing, {"brokers": 1})

    @pytest.mark.parametrize("number", [-1, 1.5, True, "3"])
    def test_a_number_that_is_none(self, number: object) -> None:
        with pytest.raises(TypeError, match="takes a number of nodes"):
            cluster(number)  # type: ignore[arg-type]
