"""Which nodes the settings name."""

import json
from pathlib import Path

import pytest

from trafficlight.errors import ConfigError
from trafficlight.parameters import NodeRequest, cluster, nodes_of
from trafficlight.services.clusters import open_cluster
from trafficlight.test import Test


class TestSetting:
    async def test_names_of_ssh_config(self) -> None:
        found = await open_cluster("ssh:alpha,beta", "", None)
        assert [(node.name, node.ssh is not None) for node in found.busy] == [("alpha", True), ("beta", True)]
        assert found.limited

    async def test_a_list_as_yaml_or_json(self, tmp_path: Path) -> None:
        (tmp_path / "nodes.yml").write_text(
            "- alpha\n- {host: 10.0.0.1, name: beta, labels: [ssd], port: 22}\n"
        )
        listed = ["alpha", {"host": "10.0.0.1", "name": "beta", "labels": ["ssd"], "port": 22}]
        (tmp_path / "nodes.json").write_text(json.dumps(listed))
        yaml, by_json = [
            (await open_cluster(str(tmp_path / name), "", None)).busy for name in ("nodes.yml", "nodes.json")
        ]
        assert yaml == by_json
        assert yaml[1].labels == {"ssd"}

    async def test_what_a_command_prints(self) -> None:
        found = await open_cluster("local", "echo '[\"alpha\"]'", None)
        assert [node.name for node in found.busy] == ["alpha"]

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
            await open_cluster(str(path), "", None)
        assert problem in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    async def test_what_is_no_cluster(self) -> None:
        with pytest.raises(
            ConfigError, match=r"CLUSTER: 'loca' is neither local, docker:IMAGE, .* nor a file"
        ):
            await open_cluster("loca", "", None)
        with pytest.raises(ConfigError, match="CLUSTER_COMMAND: exit code 3"):
            await open_cluster("local", "exit 3", None)


class TestUnsupported:
    async def test_more_than_there_are(self) -> None:
        found = await open_cluster("ssh:a,b", "", None)
        assert found.unsupported(NodeRequest(2)) is None
        why = "needs 3 nodes; the cluster has 2 of 2 such nodes"
        assert found.unsupported(NodeRequest(3)) == why
        assert found.unsupported(NodeRequest(1, ("ssd",))) == (
            "needs 1 node with label ssd; the cluster has 0 of 2 such nodes"
        )

    async def test_labels_of_nodes_that_are_made(self) -> None:
        found = await open_cluster("local", "", None)
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

    @pytest.mark.parametrize("number", [-1, 1.5, True, "3"])
    def test_a_number_that_is_none(self, number: object) -> None:
        with pytest.raises(TypeError, match="takes a number of nodes"):
            cluster(number)  # type: ignore[arg-type]
