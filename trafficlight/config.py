"""The settings: what there is, where it is read, and what is wrong with it.

Flags go before the environment (``TRAFFICLIGHT_<KEY>``), the environment before the file, the file before
the defaults. The file is ``trafficlight.json`` in the current directory or ``instance/trafficlight.json``.
"""

import difflib
import json
import logging
import os
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from trafficlight.errors import ConfigError
from trafficlight.text import in_plain_words, read_user_file, without_credentials

logger = logging.getLogger(__name__)

ENVIRONMENT_PREFIX = "TRAFFICLIGHT_"
RESULTS_MARKER = ".trafficlight-results"
"""A file in folders that hold results, which are not searched for tests."""
SYNAPSE_VERSION = "1.163.2"
DENDRITE_VERSION = "0.13.8"
DENDRITE_MODULE = "github.com/matrix-org/dendrite"  # Apache-licensed; later releases are published elsewhere
# Variables that are set for adapters; not settings.
_FOR_ADAPTERS = frozenset(
    f"TRAFFICLIGHT_{name}" for name in ("URL", "INSTANCE", "INSTANCE_SECRET", "STORAGE", "EVIDENCE")
)
# Prefixes of settings that are accepted without an effect, and why.
_OBSOLETE = {
    "KIWI_": "REPORTERS configures reporters",
    "WARM_SERVERS": "no homeserver is started before its case",
}
# Bytes with which a worker starts.
_LEAST_MEMORY = 128 << 20
_RENAMED = {"docker_engines": "docker_engine"}
CONFIGURATION_FILES = ("trafficlight.json", "instance/trafficlight.json")

ProviderName = Literal["local", "homerunner", "docker", "static"]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:  # no such user
        raise PydanticCustomError("home", "must not begin with the home of an unknown user") from error


# As in a shell: a folder that is called `~` is never meant.
UserPath = Annotated[Path, AfterValidator(_expanded)]


def key_of(field: str) -> str:
    """Return how a setting is spelled in the configuration file."""
    return field.upper()


class StaticServer(BaseModel):
    """A homeserver that runs already."""

    model_config = ConfigDict(extra="forbid")

    server_name: str = Field(min_length=1)
    cs_api: str = Field(pattern=r"^https?://")


class DockerHost(BaseModel):
    """The Docker engine to run homeservers on.

    :ivar url: ``unix://``, ``tcp://``, ``http://`` or ``https://``.
    :ivar certificates: the folder with its ca.pem, cert.pem and key.pem; with one it is spoken to over TLS.
    :ivar capacity: homeservers at once; by default what its memory and cores allow.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    certificates: UserPath | None = None
    capacity: int | None = Field(default=None, ge=1)


def _variable_name(name: str) -> str:
    if not name or "=" in name:
        raise PydanticCustomError("variable", "must be the name of an environment variable")
    return name


class KeepResults(BaseModel):
    """Which sessions' results are kept; what exceeds any of the limits is removed.

    :ivar days: since the last event of a session.
    :ivar sessions: the latest ones.
    :ivar bytes: of the latest sessions together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    days: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    sessions: int | None = Field(default=None, ge=1)
    bytes: int | None = Field(default=None, ge=1)


class AdapterProgram(BaseModel):
    """Adapters that the lab starts itself.

    :ivar command: starts an adapter; ``{url}`` and ``{port}`` in it, and in `env`, are the coordinator's URL
        and a free port.
    :ivar driver: instead of `command`, starts a driver.
    :ivar version: instead of both, the version of a client that comes with trafficlight.
    :ivar count: processes.
    :ivar cwd: their working directory.
    :ivar env: environment variables to set besides.
    """

    model_config = ConfigDict(extra="forbid")

    command: str = ""
    driver: str = ""
    version: str = ""
    count: int = Field(default=1, ge=0, le=1000)
    cwd: UserPath | None = None
    env: dict[Annotated[str, AfterValidator(_variable_name)], str] = Field(default_factory=dict)


def _as_program(value: Any) -> Any:
    if isinstance(value, str):
        return {"command": value}
    return {"count": value} if isinstance(value, int) and not isinstance(value, bool) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_engine(value: Any) -> Any:
    if isinstance(value, list):
        if len(value) > 1:
            raise PydanticCustomError("several", "must name one engine, not several")
        value = value[0] if value else None
    return {"url": value} if isinstance(value, str) else value


Program = Annotated[AdapterProgram, BeforeValidator(_as_program)]


def _not_blank(token: SecretStr) -> SecretStr:
    if not token.get_secret_value().strip():
        raise PydanticCustomError("blank", "must not be empty; leave it out, or null, for none")
    return token


def _glob(pattern: str) -> str:
    # fnmatch takes a bracket that is not closed literally.
    if pattern.count("[") > pattern.count("]"):
        raise PydanticCustomError("glob", "must be a glob: a [ in it is not closed")
    return pattern


Token: TypeAlias = Annotated[SecretStr, AfterValidator(_not_blank)]


def _enough(memory: int) -> int:
    if 0 < memory < _LEAST_MEMORY:
        raise PydanticCustomError("memory", f"must be 0, or at least {_LEAST_MEMORY}, which a worker needs")
    return memory


class Settings(BaseModel):
    """Every setting, with its default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tests: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        default_factory=list,
        description="What `serve` runs first: files, directories, symbols. Default: the built-in suites.",
    )
    test_pattern: Annotated[str, AfterValidator(_glob)] | None = Field(
        default=None,
        description="Glob for test files below a directory; default `test_*.py` and `*_test.py`.",
    )
    results_folder: UserPath | None = Field(
        default=None,
        description="Where sessions leave their results; default `UPLOAD_FOLDER`, then `results`.",
    )
    upload_folder: UserPath | None = Field(
        default=None, description="The original's name for the same folder: what clients upload lies in it."
    )
    cache_folder: UserPath | None = Field(
        default=None, description="Where homeserver installations are kept; default: the user's cache folder."
    )

    host: str = Field(default="127.0.0.1", min_length=1, description="The address to listen on.")
    port: int = Field(default=0, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    allowed_hosts: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        default_factory=list,
        description="Names under which the coordinator is reached, besides addresses, `localhost`, the"
        " machine's name and `HOST`; `*` is any.",
    )
    trusted_proxies: Annotated[list[IPvAnyNetwork], BeforeValidator(_as_list)] = Field(
        default_factory=lambda: [ip_network("127.0.0.0/8"), ip_network("::1")],
        description="Addresses or networks of proxies whose `X-Forwarded-For`, `X-Forwarded-Proto` and"
        " `X-Forwarded-Prefix` count; default: this machine.",
    )
    adapter_token: Token | None = Field(
        default=None,
        description="What adapters must send as bearer token to register; null: no token needed.",
    )
    people_token: Token | None = Field(
        default=None,
        description="What people's pages and the API ask for; null: reading takes no token, and changes take "
        "the one that the coordinator makes at its start.",
    )
    clients: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        default_factory=lambda: ["nio"],
        min_length=1,
        description="The clients in roles for any Matrix client, where a session names none.",
    )
    servers: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        default_factory=lambda: ["synapse"],
        min_length=1,
        description="The homeservers in roles for any homeserver, where a session names none.",
    )
    adapters: dict[str, Program] = Field(
        default_factory=lambda: {
            name: AdapterProgram(count=4)
            for name in (
                *("nio", "js-sdk", "mautrix-go", "rust-sdk", "hydrogen-web", "element-web"),
                *("element-call", "network-proxy"),
            )
        },
        description="The adapters that `run` starts, by name: how many of a built-in client, or the command"
        " of an adapter, or an object with `command` (of an adapter) or `driver` (the command of a driver),"
        " `count`, `cwd` and `env`. In commands and `env`, `{url}` is the coordinator's URL, and `{port}` a"
        " free port of each process.",
    )

    server_providers: dict[str, ProviderName] = Field(
        default_factory=dict,
        description="Where each server type comes from: `local`, `homerunner`, `docker`, `static`;"
        " `*` is every other type.",
    )
    server_overrides: dict[str, Any] = Field(
        default_factory=dict,
        description="Homeservers that run already, for each server type: `server_name` and `cs_api`.",
    )
    homerunner_url: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        default_factory=list, description="The homerunner to use, or a list of them."
    )
    images: dict[str, str] = Field(
        default_factory=dict,
        description="The Docker image for each server type, for `homerunner` and `docker`; default: its own.",
    )
    docker_engine: Annotated[DockerHost | None, BeforeValidator(_as_engine)] = Field(
        default=None,
        description="The Docker engine to use: a URL such as `unix:///var/run/docker.sock` or"
        " `tcp://host:2376`, or an object with `url`, `certificates` (a folder, for TLS) and `capacity`"
        " (homeservers at once); default: `DOCKER_HOST`, else this machine's.",
    )
    docker_memory: int = Field(
        default=1 << 30, ge=1 << 26, description="Bytes of memory that a homeserver in Docker may use."
    )
    docker_cpus: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="Processors that a homeserver in Docker may use; 0: no limit.",
    )
    synapse_version: str = Field(default=SYNAPSE_VERSION, description="The version of `SynapseStable`.")
    dendrite_version: str = Field(default=DENDRITE_VERSION, description="The version of `Dendrite`.")
    dendrite_module: str = Field(
        default=DENDRITE_MODULE,
        pattern=r"^[\w.~-]+(/[\w.~-]+)+$",
        description="The Go module that Dendrite is built from.",
    )

    case_limit: int | None = Field(
        default=None,
        ge=1,
        description="Cases at once; null: four for each core, at least eight; one with `WORKERS` 0.",
    )
    homeserver_limit: int | None = Field(
        default=None,
        ge=1,
        description="Homeservers at once, over all providers; null: what each of them can carry.",
    )
    share_servers: bool | list[str] = Field(
        default=False,
        description="Whether cases share homeservers, in which each has its own users and rooms; or the names"
        " of the server types of which they do. A test that operates or administrates them, disturbs the"
        " network, or has `isolated = True`, has its own, as has a server type with settings. Only for the"
        " providers `local` and `docker`.",
    )
    client_limits: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="Clients of a type at once, at least 1, by client type."
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Processes for test code that are kept ready; more start when more cases run at once"
        " (`CASE_LIMIT`). null: one for each core; 0: none, tests run inside the coordinator.",
    )
    worker_memory: Annotated[int, AfterValidator(_enough)] = Field(
        default=4 << 30, ge=0, description="Bytes of data that a worker process may have; 0: no limit."
    )

    poll_hold: Seconds = Field(default=20.0, lt=30, description="Seconds that a poll is held at most.")
    alive_deadline: Seconds = Field(
        default=60.0, description="Seconds without a sign of life from an adapter."
    )
    import_deadline: Seconds = Field(
        default=60.0, description="Seconds that importing a test file, and expanding its tests, may take."
    )
    action_deadline: Seconds = Field(default=60.0, description="Seconds that a client has for one action.")
    case_deadline: Seconds = Field(
        default=300.0, description="Seconds that a case's test may take, unless it has its own `timeout`."
    )
    prepare_deadline: Seconds = Field(default=120.0, description="Seconds until a case's homeservers answer.")
    teardown_deadline: Seconds = Field(default=30.0, description="Seconds that a test's tear-down may take.")
    queue_deadline: Seconds = Field(
        default=300.0,
        description="Seconds that a case waits while no registered adapter could fill one of its roles.",
    )
    exit_deadline: Seconds = Field(
        default=45.0,
        description="Seconds that an adapter program has after `exit` to upload files and exit.",
    )
    session_deadline: Seconds | None = Field(default=None, description="Seconds that a session may take.")
    grace: Seconds = Field(
        default=10.0, description="Seconds that running cases get to finish when the lab shuts down."
    )

    cluster: str = Field(
        default="local",
        min_length=1,
        description="The nodes for services: `local` (folders and ports of this machine), `docker:IMAGE`,"
        " `ssh:NAME,NAME` (of `ssh_config`), `vagrant`, `vagrant:FOLDER`, or a JSON or YAML file that lists"
        " them.",
    )
    cluster_command: str = Field(
        default="", description="A command that prints such a list; it goes before `CLUSTER`."
    )

    dask: str | None = Field(
        default=None,
        min_length=1,
        description="The address of a Dask scheduler, such as `tcp://host:8786`, on whose workers `run` has"
        " the cases run; null: on this machine.",
    )

    strict: bool = Field(
        default=False,
        description="Whether unsupported cases, warnings and unexpected successes make the exit code 3.",
    )
    record_traffic: Literal["always", "failures", "never"] = Field(
        default="failures",
        description="Whether the requests of clients go through a proxy that records them: `failures` (the"
        " recordings of cases that succeed are removed), `always`, or `never`, except for tests that use the"
        " network of a client. Only for clients and homeservers on this machine, and for those of"
        " `SERVER_OVERRIDES` only with `always`.",
    )
    rerun_interrupted: bool = Field(
        default=True,
        description="Whether cases that a killed coordinator was at run again; otherwise they end in error.",
    )
    interruption_limit: int = Field(
        default=3,
        ge=1,
        description="How many times in a row a case may be running when the coordinator is killed, before it "
        "ends as an error: it may be what kills it.",
    )

    keep_results: KeepResults | None = Field(
        default=None,
        description="Which sessions' folders are kept: an object with `days`, `sessions` (a number) and"
        " `bytes`, each of them optional. Others are removed when a session ends, but for pinned ones. null:"
        " nothing is removed.",
    )
    history: str = Field(
        default="",
        pattern=r"^(postgres(ql)?://.*)?$",
        description="The URL of a PostgreSQL database for the history of cases, if several labs share one"
        " (`postgresql://user@host/database`; the password in `PGPASSWORD` or `~/.pgpass`); empty: a file in"
        " the results folder.",
    )
    job_url: str = Field(
        default="",
        pattern=r"^(https?://.*)?$",
        description="The link of the CI job that runs the lab, which reports show; default: that of GitHub"
        " Actions, GitLab or Jenkins, by the variables that they set.",
    )
    upload_file_limit: int = Field(default=4 << 30, ge=1, description="Bytes of one uploaded file at most.")
    upload_case_limit: int = Field(
        default=16 << 30,
        ge=1,
        description="Bytes of one case's uploads at most, and of all uploads that belong to no case.",
    )
    keep_sessions: int = Field(
        default=20,
        ge=0,
        description="How many ended sessions are cached in memory after they were read from their folders.",
    )
    reporters: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Reporters by name, each with its own settings."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="warning", description="What the coordinator itself logs."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="How it logs: lines for people, or one JSON object a line."
    )

    @property
    def test_patterns(self) -> tuple[str, ...]:
        """The globs for test files below a directory; empty where none is set."""
        return (self.test_pattern,) if self.test_pattern else ()

    @property
    def results_root(self) -> Path:
        """The folder that holds the results of all sessions."""
        return self.results_folder or self.upload_folder or Path("results")

    def public(self) -> dict[str, Any]:
        """Return the settings by their keys, without secrets, JSON-able.

        Of the programs of adapters, only the names of their executables: arguments may be passwords.
        """
        shown = self.model_dump(mode="json", exclude={"adapter_token", "people_token"})
        # What a reporter needs to log in is in its settings.
        shown["reporters"] = sorted(self.reporters)
        for program in shown["adapters"].values():
            program["command"], program["driver"] = _masked(program["command"]), _masked(program["driver"])
            program["env"] = dict.fromkeys(program["env"], "***")
        shown["cluster_command"] = _masked(self.cluster_command)
        return {key_of(field): _without_credentials(value) for field, value in shown.items()}


def _masked(command: str) -> str:
    executable, _, arguments = command.strip().partition(" ")
    return f"{executable} ***" if arguments else executable


def _without_credentials(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_credentials(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_credentials(item) for item in value]
    return without_credentials(value) if isinstance(value, str) else value


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    file: Path | None = None,
) -> Settings:
    """Return the settings, each from the first place that has it.

    :param flags: settings by field name; None values do not count.
    :param environment: the environment; this process's by default.
    :param directory: where the configuration file is looked for; the current directory by default.
    :param file: the configuration file; it must exist.
    :raises ConfigError: a key is unknown, a value is of the wrong type, or the file cannot be read.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def take(layer: Mapping[str, Any], source_of: Callable[[str], str]) -> None:
        for field, value in layer.items():
            values[field], sources[field] = value, source_of(field)

    path = file or configuration_in(directory or Path())
    if path is not None:
        take(_from_file(path), lambda _: str(path))
    take(_from_environment(environment), _variable)
    take({key: value for key, value in (flags or {}).items() if value is not None}, lambda _: "command line")
    for field, value in values.items():
        if not _is_usable(value):
            problem = "must not contain a null character or half a surrogate pair"
            raise ConfigError(problem, key=key_of(field), source=sources[field])
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise _explained(error, sources) from None


def _is_usable(value: Any) -> bool:
    """Whether the operating system can take all texts in a value, as paths, arguments or variables."""
    if isinstance(value, str):
        try:
            return b"\0" not in os.fsencode(value)
        except UnicodeEncodeError:
            return False
    if isinstance(value, dict):
        return all(map(_is_usable, [*value, *value.values()]))
    return not isinstance(value, list | tuple) or all(map(_is_usable, value))


def configuration_in(directory: Path) -> Path | None:
    """Return the configuration file that is read in a directory; None if there is none."""
    return next((directory / name for name in CONFIGURATION_FILES if (directory / name).is_file()), None)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(
            read_user_file(path), parse_constant=_no_constant, object_pairs_hook=_without_repetitions
        )
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", source=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is not JSON: {error}", source=str(path)) from error
    if not isinstance(read, dict):
        raise ConfigError("must hold one JSON object", source=str(path))
    for key in read:
        if _obsolete(key, str(path)):
            continue
        if key != key.upper() or _field(key) not in Settings.model_fields:
            raise ConfigError(f"unknown key{_suggestion(key)}", key=key, source=str(path))
    return {_field(key): value for key, value in read.items() if _field(key) in Settings.model_fields}


def _without_repetitions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated = next(key for key in values if [name for name, _ in pairs].count(key) > 1)
        raise ValueError(f"the key {repeated} is there twice")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _field(key: str) -> str:
    return _RENAMED.get(key.lower(), key.lower())


def _variable(field: str) -> str:
    return f"environment variable {ENVIRONMENT_PREFIX}{key_of(field)}"


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, text in environment.items():
        field = _field(name.removeprefix(ENVIRONMENT_PREFIX))
        if not name.startswith(ENVIRONMENT_PREFIX) or name in _FOR_ADAPTERS:
            continue
        if _obsolete(key_of(field), f"environment variable {name}"):
            continue
        if field not in Settings.model_fields:
            raise ConfigError(f"unknown setting{_suggestion(field)}", source=f"environment variable {name}")
        annotation = Settings.model_fields[field].annotation
        if text == "" and type(None) not in get_args(annotation):
            continue  # an unset variable of a CI job
        if "dict" in str(annotation) or text.startswith(("[", "{")):
            try:
                found[field] = json.loads(text, parse_constant=_no_constant)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"is not JSON: {error}", source=_variable(field)) from error
        else:
            # An empty token is an unset secret of a CI job, which must not disable the check.
            found[field] = None if text == "" and not field.endswith("_token") else text
    return found


def _obsolete(key: str, source: str) -> bool:
    """Return whether a key has no effect any more; log that."""
    why = next((why for prefix, why in _OBSOLETE.items() if key.startswith(prefix)), None)
    if why is not None:
        logger.warning("%s: %s has no effect: %s", source, key, why)
    return why is not None


def _suggestion(key: str) -> str:
    close = difflib.get_close_matches(key.upper(), [key_of(field) for field in Settings.model_fields], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _explained(error: ValidationError, sources: Mapping[str, str]) -> ConfigError:
    first = error.errors(include_url=False)[0]
    field, *inside = (str(part) for part in first["loc"])
    key = ".".join([key_of(field), *inside])
    if first["type"] == "extra_forbidden":
        return ConfigError(f"unknown key{_suggestion(field)}", key=key, source=sources.get(field))
    problem = in_plain_words(first)
    given = "" if "token" in field else f", not {first['input']!r}"
    return ConfigError(problem + given, key=key, source=sources.get(field))
