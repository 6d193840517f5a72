"""The bytes of the images of a request: from data URIs, and from hosts that the server trusts."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import aiohttp
from yarl import URL

from sdrpn_serve.api_errors import APIError
from sdrpn_serve.settings import Limits

__all__ = ["is_allowed", "read_images"]

_SCHEMES = ("http", "https")
_CODE = "invalid_image_url"
_MAX_SHOWN = 80
"""Characters of an address in a message."""


async def read_images(sources: Sequence[tuple[str, str]], limits: Limits) -> tuple[bytes, ...]:
    """The encoded images of a request.

    Args:
        sources: for each image the field of the request that names it, and its address.
        limits: how many there may be, and from where.

    Raises:
        APIError: too many, no data URI, or an address that is not allowed or not readable.
    """
    if len(sources) > limits.max_images:
        raise APIError(
            400,
            f"{len(sources)} images are over the limit of {limits.max_images} per request",
            param=sources[limits.max_images][0],
        )
    return tuple([await _read_image(param, address, limits) for param, address in sources])


async def _read_image(param: str, address: str, limits: Limits) -> bytes:
    try:
        if address[:5].lower() == "data:":
            return _from_data_uri(address)
        return await _fetch(address, limits)
    except ValueError as error:
        raise APIError(400, f"{param}: {error}", param=param, code=_CODE) from error


def _from_data_uri(address: str) -> bytes:
    """The content of a data URI (RFC 2397).

    Raises:
        ValueError: it is no image in base64; says what to send.
    """
    head, comma, content = address.partition(",")
    media, *parameters = head[len("data:") :].lower().split(";")
    if not comma or not media.startswith("image/") or "base64" not in parameters:
        raise ValueError("send the image as data:image/png;base64,...")
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the image is not valid base64 ({error})") from error


def is_allowed(url: URL, hosts: Sequence[str]) -> bool:
    """Whether an address is one of an image on a host that is on the list.

    Args:
        url: the address.
        hosts: ``HOST``, which stands for its usual ports, or ``HOST:PORT``.
    """
    if url.scheme not in _SCHEMES or url.user is not None or not url.raw_host:
        return False
    names = [f"{url.raw_host}:{url.port}"]
    if url.is_default_port():
        names.append(url.raw_host)
    return any(name in hosts for name in names)


async def _fetch(address: str, limits: Limits) -> bytes:
    """Fetch an image from a host on the list. Redirects could lead elsewhere: none is followed.

    Raises:
        ValueError: the host is not on the list, or gives no image.
    """
    shown = address if len(address) <= _MAX_SHOWN else f"{address[:_MAX_SHOWN]}..."
    # Parsed by what also fetches: two parsers may disagree about what the host is.
    url = URL(address)
    if not is_allowed(url, limits.url_hosts):
        raise ValueError(
            f"{shown!r} is not fetched: this server takes images as data:image/png;base64,... only"
            + (f", or from {', '.join(limits.url_hosts)}" if limits.url_hosts else "")
        )
    timeout = aiohttp.ClientTimeout(total=limits.timeout_s)
    # Unpacked, a small response could be of any size.
    identity = {"Accept-Encoding": "identity"}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            session.get(url, allow_redirects=False, headers=identity) as response,
        ):
            if response.status != 200:
                raise ValueError(f"{shown!r} answers with status {response.status}")
            data = bytearray()
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > limits.max_body_bytes:
                    raise ValueError(f"{shown!r} is over {limits.max_body_bytes} bytes")
            return bytes(data)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{shown!r} cannot be fetched: {reason}") from error
