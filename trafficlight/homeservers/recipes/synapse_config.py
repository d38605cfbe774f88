"""Synapse's configuration: no rate limits, federation over TLS on loopback, short retry intervals."""

import secrets
from typing import Any

from trafficlight.homeservers.recipes.recipe import Place

_UNLIMITED = {"per_second": 100_000, "burst_count": 100_000}
_PLAIN_LIMITS = (
    "rc_message", "rc_registration", "rc_joins_per_room", "rc_room_creation", "rc_admin_redaction",
    "rc_3pid_validation", "rc_third_party_invite", "rc_media_create", "rc_delayed_event_mgmt", "rc_reports",
    "rc_user_directory", "rc_profile", "rc_key_requests", "rc_registration_token_validity",
)  # fmt: skip
_NESTED_LIMITS = {
    "rc_login": ("address", "account", "failed_attempts"),
    "rc_joins": ("local", "remote"),
    "rc_invites": ("per_room", "per_user", "per_issuer"),
    "rc_presence": ("per_user",),
}


def synapse_config(place: Place) -> dict[str, Any]:
    """Return ``homeserver.yaml``, without ``public_baseurl``: it would make clients bypass a test's proxy."""
    folder = place.directory
    return {
        "server_name": place.server_name,
        "pid_file": str(folder / "homeserver.pid"),
        "signing_key_path": str(folder / "signing.key"),
        "log_config": str(folder / "log.json"),
        "media_store_path": str(folder / "media"),
        "report_stats": False,
        "macaroon_secret_key": secrets.token_hex(16),
        "form_secret": secrets.token_hex(16),
        "registration_shared_secret": secrets.token_hex(16),
        "database": {"name": "sqlite3", "args": {"database": str(folder / "homeserver.db")}},
        "listeners": [
            _listener(place.client_port, "client", tls=False),
            _listener(place.federation_port, "federation", tls=True),
        ],
        "tls_certificate_path": str(place.certificate),
        "tls_private_key_path": str(place.private_key),
        "federation_custom_ca_list": [str(place.authority)],
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "bcrypt_rounds": 4,
        "trusted_key_servers": [],
        "suppress_key_server_warning": True,
        "ip_range_blacklist": [],
        "url_preview_enabled": False,
        "presence": {"enabled": False},
        # A client that starts again must not get the first sync of its previous life.
        "caches": {"sync_response_cache_duration": 0},
        # Both are dehydrated devices, and Synapse refuses to start with both enabled.
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
        **dict.fromkeys(_PLAIN_LIMITS, _UNLIMITED),
        **{limit: dict.fromkeys(parts, _UNLIMITED) for limit, parts in _NESTED_LIMITS.items()},
    }


def log_config(place: Place) -> dict[str, Any]:
    """Return the logging configuration: INFO and above, to the file of the place."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {"format": "%(asctime)s %(levelname)s %(name)s - %(request)s - %(message)s"},
        },
        "filters": {"context": {"()": "synapse.logging.context.LoggingContextFilter", "request": ""}},
        "handlers": {
            "file": {
                "class": "logging.FileHandler",
                "filename": str(place.log),
                "encoding": "utf-8",
                "formatter": "line",
                "filters": ["context"],
            },
        },
        "root": {"level": "INFO", "handlers": ["file"]},
    }


def _listener(port: int, resource: str, *, tls: bool) -> dict[str, Any]:
    return {
        "port": port,
        "type": "http",
        "tls": tls,
        "bind_addresses": ["127.0.0.1"],
        "resources": [{"names": [resource], "compress": False}],
    }
