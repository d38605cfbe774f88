"""What the provider docker decides without an engine."""

import asyncio
import importlib.util
import os
import time
from pathlib import Path

import pytest
from cryptography import x509

from trafficlight.config import DockerHost
from trafficlight.errors import ConfigError, DeployError
from trafficlight.homeservers.certificates import create_rsa_authority
from trafficlight.homeservers.docker.api import LABEL, ContainerWatch, Owner, certificate_folder, is_orphan
from trafficlight.homeservers.docker.engine import DockerEngine
from trafficlight.homeservers.docker.provider import DockerProvider
from trafficlight.server_types import HomeServerSpec, SynapseStable
from trafficlight.version import install_command

ODD = HomeServerSpec("Odd", "odd", "stable", "")


def test_without_its_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    reason = DockerProvider().unsupported(SynapseStable().homeservers()[0])
    assert reason == f"the provider docker needs aiodocker: {install_command('docker')}"


def test_an_image_can_be_configured() -> None:
    assert DockerProvider().unsupported(ODD) == "Odd (odd): no image is named for it, see IMAGES"
    assert DockerProvider(images={"Odd": "odd:1"}).unsupported(ODD) is None


@pytest.mark.parametrize("url", ["ssh://host", "/var/run/docker.sock", "npipe://x"])
def test_a_wrong_engine_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match="DOCKER_ENGINE"):
        DockerProvider(DockerHost(url=url))


def test_the_default_is_what_the_docker_command_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert DockerEngine().url == "tcp://127.0.0.1:1"
    monkeypatch.delenv("DOCKER_HOST")
    assert DockerEngine().url == "unix:///var/run/docker.sock"


@pytest.mark.parametrize("url", ["unix:///nonesuch.sock", "tcp://127.0.0.1:1"])
async def test_an_engine_that_is_not_there_is_named(url: str) -> None:
    provider = DockerProvider(DockerHost(url=url))
    with pytest.raises(DeployError, match=f"the Docker engine {url} does not answer"):
        await provider.prepare(SynapseStable().homeservers())
    await provider.close()


async def test_an_engine_that_does_not_answer_carries_nothing() -> None:
    provider = DockerProvider(DockerHost(url="unix:///nonesuch.sock", capacity=4))
    assert provider.capacities == {"docker homeservers": 0}
    with pytest.raises(DeployError):
        await provider.prepare(SynapseStable().homeservers())
    assert provider.capacities == {"docker homeservers": 0}
    await provider.close()


@pytest.mark.parametrize(
    ("url", "certificates", "verify", "folder"),
    [
        ("unix:///var/run/docker.sock", None, "1", None),
        ("tcp://127.0.0.1:2375", None, "", None),
        ("tcp://127.0.0.1:2375", None, "0", None),
        ("tcp://127.0.0.1:2376", None, "1", "/common"),
        ("tcp://127.0.0.1:2376", "/own", "", "/own"),
        ("tcp://127.0.0.1:2376", "/own", "1", "/own"),
        ("https://127.0.0.1:2376", None, "", "/common"),
        ("http://127.0.0.1:2375", None, "1", None),
    ],
)
def test_which_engines_are_spoken_to_over_tls(
    url: str, certificates: str | None, verify: str, folder: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_TLS_VERIFY", verify)
    monkeypatch.setenv("DOCKER_CERT_PATH", "/common")
    host = DockerHost(url=url, certificates=Path(certificates) if certificates else None)
    assert certificate_folder(host) == (Path(folder) if folder else None)


@pytest.mark.parametrize("url", ["unix:///var/run/docker.sock", "http://127.0.0.1:2375"])
def test_certificates_without_tls_are_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="has certificates, but its URL is not for TLS"):
        DockerProvider(DockerHost(url=url, certificates=Path("/own")))


async def test_certificates_that_are_missing_are_named(tmp_path: Path) -> None:
    provider = DockerProvider(DockerHost(url="tcp://127.0.0.1:1", certificates=tmp_path))
    with pytest.raises(DeployError, match=f"needs ca.pem, cert.pem and key.pem in {tmp_path}"):
        await provider.prepare(SynapseStable().homeservers())
    await provider.close()


def test_what_this_process_owns_is_not_an_orphan() -> None:
    assert not is_orphan(Owner().labels("case"))


def test_what_a_dead_process_owned_is_an_orphan() -> None:
    labels = Owner().labels("case", "server")
    place, pid, started, token = labels[LABEL].split("/")
    assert pid == str(os.getpid())
    assert is_orphan(labels | {LABEL: f"{place}/999999999/{started}/{token}"})
    assert is_orphan(labels | {LABEL: f"{place}/{pid}/{int(started) + 1}/{token}"})  # a reused pid


def test_what_another_machine_owns_is_an_orphan_when_it_is_too_old() -> None:
    labels = Owner().labels("case") | {LABEL: "another-machine/1/2/3"}
    assert not is_orphan(labels)
    assert is_orphan(labels | {"trafficlight.expires": str(int(time.time()) - 1)})


@pytest.mark.parametrize(
    "labels", [{}, {LABEL: ""}, {LABEL: "x/y/z"}, {LABEL: "x", "trafficlight.expires": "?"}]
)
def test_what_no_lab_owns_is_not_an_orphan(labels: dict[str, str]) -> None:
    assert not is_orphan(labels)


async def test_a_watch_reports_why_a_container_exited() -> None:
    watch = ContainerWatch()
    watch.take({"Action": "start"})
    assert watch.reason is None
    watch.take({"Action": "oom"})
    watch.take({"Action": "die", "Actor": {"Attributes": {"exitCode": "137"}}, "timeNano": 12_000_000_034})
    assert await watch.ended() == "exit code 137, out of memory"
    assert watch.ended_at == "12.000000034"
    watch.begin()
    assert watch.reason is None


async def test_a_watch_accepts_an_exit_without_details() -> None:
    watch = ContainerWatch()
    watch.take({"Action": "die", "Actor": {"ID": "1"}})
    assert await watch.ended() == "exit code ?"


async def test_all_homeservers_trust_the_same_authority() -> None:
    provider = DockerProvider()
    assert len(set(await asyncio.gather(*(provider._authority() for _ in range(3))))) == 1


def test_the_authority_is_what_complement_images_read() -> None:
    certificate, key = create_rsa_authority()
    constraints = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(
        x509.BasicConstraints
    )
    assert constraints.value.ca
    assert key.startswith(b"-----BEGIN RSA PRIVATE KEY-----")
