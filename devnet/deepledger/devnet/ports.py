"""Ports of this machine."""

from __future__ import annotations

import socket

from deepledger.protocol.errors import StateError


def listening_socket(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 lets the system choose. Raises StateError when it cannot be had."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as unknown:
        raise StateError(f"cannot listen on {host!r}: {unknown}") from unknown
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(place)
    except OSError as taken:
        bound.close()
        raise StateError(
            f"cannot listen on {host} port {port}: {taken.strerror}. Stop what uses it, or choose another with --port"
        ) from taken
    return bound


def free_port(host: str) -> int:
    with listening_socket(host, 0) as bound:
        return int(bound.getsockname()[1])


def reachable(host: str) -> str:
    """How a URL on this machine names the address that a server listens on."""
    if host in ("", "0.0.0.0"):  # noqa: S104
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
