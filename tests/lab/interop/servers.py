"""Servers of others, and ours, with one file each, as processes of a laboratory."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from tests.lab.interop import peers
from whimbrel.cli._demo import servers
from whimbrel.cli._demo.servers import PORT, Site

if TYPE_CHECKING:
    from collections.abc import Callable

    from whimbrel.testing import Laboratory


def find(peer: str) -> None:
    """Look for all that a server needs.

    Raises:
        NotHere: something is missing.
    """
    _FIND.get(peer, lambda: None)()


def start(lab: Laboratory, site: Site, peer: str) -> None:
    """Start a server; returns when it takes connections.

    Raises:
        NotHere: it is not installed.
        ServerFailed: it did not come up.
    """
    _START[peer](lab, site)


def _caddy(lab: Laboratory, site: Site) -> None:
    servers._start_caddy(lab, site, protocols="h1 h2 h3")


def _gtlsserver(lab: Laboratory, site: Site) -> None:
    servers._start_gtlsserver(lab, site)


def _whimbrel(lab: Laboratory, site: Site) -> None:
    process = servers._start_ours(lab, site, "wildcard")
    if process.stdout is not None:  # It tells of uploads, and there are none.
        process.stdout.close()


def _quic_go(lab: Laboratory, site: Site) -> None:
    _start(lab, site, [peers.quic_go(), "server", f"{site.address}:{PORT}", *_certificate(site), str(site.root)])


def _quinn(lab: Laboratory, site: Site) -> None:
    _start(lab, site, [peers.quinn(), "server", f"{site.address}:{PORT}", *_certificate(site), str(site.root)])


def _aioquic(lab: Laboratory, site: Site) -> None:
    certificate, key = _certificate(site)
    order = {"address": site.address, "port": PORT, "certificate": certificate, "key": key, "root": str(site.root)}
    _start(lab, site, [sys.executable, "-m", "tests.lab.programs.aioquic_server", json.dumps(order)])


def _envoy(lab: Laboratory, site: Site) -> None:
    config = site.folder / "envoy.json"
    config.write_text(json.dumps(_envoy_config(site)))
    # No admin page and no shared memory of its own: several may run on one machine.
    _start(lab, site, [peers.envoy(), "--config-path", str(config), "--disable-hot-restart"])


def _envoy_config(site: Site) -> dict[str, object]:
    """Envoy's bootstrap: HTTP/3 alone, and the file as the answer to everything."""
    kinds = "type.googleapis.com/envoy.extensions"
    certificate, key = _certificate(site)
    answer = {"status": 200, "body": {"filename": str(site.file)}}
    manager = {
        "@type": f"{kinds}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "codec_type": "HTTP3",
        "stat_prefix": "site",
        "route_config": {
            # Answers that come from the configuration have a small limit otherwise.
            "max_direct_response_body_size_bytes": site.file.stat().st_size,
            "virtual_hosts": [
                {
                    "name": "site",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": answer}],
                }
            ],
        },
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{kinds}.filters.http.router.v3.Router"}},
        ],
    }
    tls = {
        "@type": f"{kinds}.transport_sockets.quic.v3.QuicDownstreamTransport",
        "downstream_tls_context": {
            "common_tls_context": {
                "tls_certificates": [
                    {"certificate_chain": {"filename": certificate}, "private_key": {"filename": key}},
                ]
            }
        },
    }
    listener = {
        "name": "site",
        "address": {"socket_address": {"protocol": "UDP", "address": site.address, "port_value": PORT}},
        "udp_listener_config": {"quic_options": {}},
        "filter_chains": [
            {
                "transport_socket": {"name": "quic", "typed_config": tls},
                "filters": [{"name": "manager", "typed_config": manager}],
            }
        ],
    }
    return {"static_resources": {"listeners": [listener]}}


def _start(lab: Laboratory, site: Site, argv: list[str]) -> None:
    env = os.environ | {"HOME": str(site.folder), "PYTHONPATH": str(peers.ROOT)}
    servers._start(lab, argv, site.folder / "server.log", env, tables=["udp"])


def _certificate(site: Site) -> tuple[str, str]:
    return str(site.certificate), str(site.key)


_START: dict[str, Callable[[Laboratory, Site], None]] = {
    "caddy": _caddy,
    "envoy": _envoy,
    "gtlsserver": _gtlsserver,
    "aioquic": _aioquic,
    "quic-go": _quic_go,
    "quinn": _quinn,
    "whimbrel": _whimbrel,
}
_FIND: dict[str, Callable[[], object]] = {
    "caddy": peers.caddy,
    "envoy": peers.envoy,
    "gtlsserver": peers.gtlsserver,
    "quic-go": peers.quic_go,
    "quinn": peers.quinn,
}
NAMES = tuple(_START)
"""All of them."""
