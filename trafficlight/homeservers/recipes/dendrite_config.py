"""The configuration of one Dendrite: one process, SQLite, no limits, federation over TLS on loopback."""

from typing import Any

from trafficlight.homeservers.recipes.recipe import Place

_COMPONENTS = ("federation_api", "key_server", "media_api", "mscs", "relay_api", "room_server", "sync_api")


def dendrite_config(place: Place) -> dict[str, Any]:
    """Return ``dendrite.yaml``. Ports, certificate and open registration are flags of the command."""
    folder = place.directory
    config: dict[str, Any] = {
        "version": 2,
        "global": {
            "server_name": place.server_name,
            "private_key": str(folder / "signing.pem"),
            "jetstream": {"storage_path": str(folder / "jetstream"), "topic_prefix": "Dendrite"},
            "presence": {"enable_inbound": False, "enable_outbound": False},
            "report_stats": {"enabled": False},
            "trusted_third_party_id_servers": [],
        },
        "client_api": {"registration_disabled": False, "rate_limiting": {"enabled": False}},
        "federation_api": {
            "key_perspectives": [],
            "deny_networks": [],
            "allow_networks": ["0.0.0.0/0", "::/0"],
        },
        "media_api": {"base_path": str(folder / "media")},
        "sync_api": {"search": {"enabled": False, "index_path": str(folder / "search")}},
        "user_api": {
            "account_database": {"connection_string": f"file:{folder}/user_api.db"},
            "bcrypt_cost": 4,
        },
        "logging": [{"type": "std", "level": "info"}],
    }
    for component in _COMPONENTS:
        database = {"connection_string": f"file:{folder}/{component}.db"}
        config.setdefault(component, {})["database"] = database
    return config
