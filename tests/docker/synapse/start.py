"""Start Synapse in a container the way Complement expects.

The name comes from ``SERVER_NAME``, the authority for TLS from ``/complement/ca``, and federation is on 8448.
With ``--prepare`` it migrates an empty database instead, once, while the image is built.
"""

import base64
import datetime
import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DATA = Path("/data")
_TEMPLATE = Path("/synapse/empty.db")
_AUTHORITY = Path("/complement/ca")
_UNLIMITED = {"per_second": 100_000, "burst_count": 100_000}
_LIMITS: dict[str, tuple[str, ...]] = {
    "rc_message": (), "rc_registration": (), "rc_joins_per_room": (), "rc_room_creation": (),
    "rc_admin_redaction": (), "rc_3pid_validation": (), "rc_third_party_invite": (), "rc_media_create": (),
    "rc_delayed_event_mgmt": (), "rc_reports": (), "rc_user_directory": (), "rc_profile": (),
    "rc_key_requests": (), "rc_registration_token_validity": (),
    "rc_login": ("address", "account", "failed_attempts"), "rc_joins": ("local", "remote"),
    "rc_invites": ("per_room", "per_user", "per_issuer"), "rc_presence": ("per_user",),
}  # fmt: skip


def configuration(name: str) -> dict[str, Any]:
    """Return ``homeserver.yaml``."""

    def listener(port: int, resources: list[str], *, tls: bool) -> dict[str, Any]:
        return {
            "port": port,
            "type": "http",
            "tls": tls,
            "bind_addresses": ["0.0.0.0"],
            "resources": [{"names": resources, "compress": False}],
        }

    limits = {
        limit: dict.fromkeys(parts, _UNLIMITED) if parts else _UNLIMITED for limit, parts in _LIMITS.items()
    }
    trusted = {"federation_custom_ca_list": [str(_AUTHORITY / "ca.crt")]} if _AUTHORITY.exists() else {}
    return (
        limits
        | trusted
        | {
            "server_name": name,
            "pid_file": str(_DATA / "homeserver.pid"),
            "signing_key_path": str(_DATA / "signing.key"),
            "media_store_path": str(_DATA / "media"),
            "log_config": str(_DATA / "log.json"),
            "report_stats": False,
            "macaroon_secret_key": "complement",
            "form_secret": "complement",
            "registration_shared_secret": "complement",
            "database": {"name": "sqlite3", "args": {"database": str(_DATA / "homeserver.db")}},
            "listeners": [
                listener(8008, ["client", "federation"], tls=False),
                listener(8448, ["federation"], tls=True),
            ],
            "tls_certificate_path": str(_DATA / "server.crt"),
            "tls_private_key_path": str(_DATA / "server.key"),
            "enable_registration": True,
            "enable_registration_without_verification": True,
            "bcrypt_rounds": 4,
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "ip_range_blacklist": [],
            "url_preview_enabled": False,
            "presence": {"enabled": False},
            "caches": {"sync_response_cache_duration": 0},
            "experimental_features": {"msc3814_enabled": True, "msc2697_enabled": False},
            "federation": {
                "client_timeout": "10s",
                "max_short_retry_delay": 200,
                "max_long_retry_delay": "2s",
                "max_short_retries": 5,
                "max_long_retries": 5,
                "destination_min_retry_interval": 100,
                "destination_max_retry_interval": "1s",
            },
            "federation_rr_transactions_per_room_per_second": 100_000,
            "rc_federation": {
                "window_size": 1000,
                "sleep_limit": 100_000,
                "sleep_delay": 1,
                "reject_limit": 100_000,
                "concurrent": 100,
            },
        }
    )


def log_configuration() -> dict[str, Any]:
    """Return the logging configuration: everything from INFO on, to the container's log."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s - %(request)s - %(message)s"}},
        "filters": {"context": {"()": "synapse.logging.context.LoggingContextFilter", "request": ""}},
        "handlers": {
            "console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["context"]}
        },
        "root": {"level": "INFO", "handlers": ["console"]},
    }


def write_configuration(name: str) -> None:
    """Write what Synapse reads; the signing key only the first time, because it is part of the identity."""
    _DATA.mkdir(exist_ok=True)
    key = _DATA / "signing.key"
    if not key.exists():
        secret = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        key.write_text(f"ed25519 a_{secrets.token_hex(2)} {secret}\n")
    (_DATA / "log.json").write_text(json.dumps(log_configuration()))
    (_DATA / "homeserver.yaml").write_text(json.dumps(configuration(name)))  # JSON is YAML


def write_certificate(name: str) -> None:
    """Make a certificate for the name, signed by the authority of this deployment."""
    authority = x509.load_pem_x509_certificate((_AUTHORITY / "ca.crt").read_bytes())
    authority_key = serialization.load_pem_private_key((_AUTHORITY / "ca.key").read_bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(authority_key, hashes.SHA256())  # type: ignore[arg-type]
    )
    (_DATA / "server.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (_DATA / "server.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def prepare() -> None:
    """Migrate an empty database; it does not depend on the name."""
    write_configuration("nowhere")
    for file in ("server.crt", "server.key"):
        (_DATA / file).touch()
    command = [
        sys.executable, "-m", "synapse._scripts.update_synapse_database",
        "--database-config", str(_DATA / "homeserver.yaml"), "--run-background-updates",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    shutil.move(_DATA / "homeserver.db", _TEMPLATE)
    shutil.rmtree(_DATA)


def main() -> None:
    """Write the configuration and turn into Synapse."""
    if sys.argv[1:] == ["--prepare"]:
        prepare()
        return
    name = os.environ["SERVER_NAME"]
    write_configuration(name)
    write_certificate(name)
    if not (_DATA / "homeserver.db").exists():
        shutil.copy(_TEMPLATE, _DATA / "homeserver.db")
    config = str(_DATA / "homeserver.yaml")
    os.execv(sys.executable, [sys.executable, "-m", "synapse.app.homeserver", "-c", config])


main()
