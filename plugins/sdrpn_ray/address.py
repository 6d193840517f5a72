"""Addresses of Ray clusters."""

from __future__ import annotations

import socket

from sdrpn_core.errors import SdrpnError

__all__ = ["check_reachable"]

_CONNECT_SECONDS = 10.0


def check_reachable(address: str) -> None:
    """Refuse an address at once; Ray would retry for many minutes without a message.

    Args:
        address: of a cluster, in any form that Ray takes.

    Raises:
        SdrpnError: nobody listens at ``HOST:PORT``; other forms are not checked.
    """
    host, separator, port = address.rpartition("://")[2].rpartition(":")
    if not separator or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise SdrpnError(f"there is no Ray cluster at {address}: {error}") from error
