"""Which store a URL stands for, and several of them as one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.blobs.store import BlobStore, ReadOnly
from deepledger.protocol.errors import BadInput

_ACCEPTED: Final = (
    "give a folder or CAR file (file:///dir or a path), a Kubo RPC (ipfs+http://host:port or /ip4/host/tcp/port/http), "
    "or, to read from, a gateway or coordinator (https://host/ipfs, http://host:port/blobs)"
)
_MULTIADDRS = ("/ip4/", "/ip6/", "/dns/", "/dns4/", "/dns6/", "/unix/")
_KUBO_PORT: Final = 5001


def _unheard(_: str) -> None:
    pass


def open_store(
    *urls: str,
    timeout: float = 30,
    fetch_timeout: float = 60,
    credentials: str | None = None,
    fetches: bool = True,
    writes: bool = False,
    tell: Callable[[str], None] = _unheard,
) -> BlobStore:
    """The store at the URL, or all of them as one, see `Stores`; nothing is contacted before its first use.

    The seconds concern IPFS and gateways; `credentials` IPFS: one secret, or, where there are several daemons, a line
    for each with its URL before it. With `fetches` false, nothing is had from others: a daemon serves what it has, and
    gateways are left out; who serves strangers wants that. With `writes`, one must be a store that can be written to,
    or `BadInput` is raised. `tell` hears of a store that another one has to stand in for.

    A path that begins like a multiaddr is one; write file:///ip4/… for the folder.
    """
    daemons = [url for url in urls if _kubo_address(url) is not None]
    secrets = _secrets(credentials, daemons)
    stores = [
        _open(url, timeout=timeout, fetch_timeout=fetch_timeout, credentials=secrets.get(url), fetches=fetches)
        for url in urls
    ]
    if writes and all(isinstance(store, ReadOnly) for store in stores):
        raise BadInput(
            f"blobs can only be read from {' and '.join(urls)}: name, with --store, an IPFS daemon or a folder, too"
        )
    if not fetches:
        stores = [store for store in stores if not _is_elsewhere(store)]
    if len(stores) == 1:
        return stores[0]
    from deepledger.protocol.blobs.several import Stores

    return Stores(stores, tell)


def _open(url: str, *, timeout: float, fetch_timeout: float, credentials: str | None, fetches: bool) -> BlobStore:
    api = _kubo_address(url)
    if api is not None:
        from deepledger.protocol.blobs.ipfs import IpfsStore  # ipfshttpclient only where it is used

        return IpfsStore(api, timeout=timeout, fetch_timeout=fetch_timeout, credentials=credentials, fetches=fetches)
    if url.startswith(("http://", "https://")):
        from deepledger.protocol.blobs.gateway import GatewayStore  # requests, too

        return GatewayStore(_gateway(url), timeout=timeout, fetch_timeout=fetch_timeout)
    path = _path(url)
    if path.is_file() or (path.suffix == ".car" and not path.is_dir()):
        from deepledger.protocol.blobs.car import CarStore

        return CarStore(path)
    return DirectoryStore(path)


def _is_elsewhere(store: BlobStore) -> bool:
    from deepledger.protocol.blobs.gateway import GatewayStore

    return isinstance(store, GatewayStore)


def _secrets(credentials: str | None, daemons: list[str]) -> dict[str, str]:
    """The credentials for each daemon: none goes to another one."""
    lines = (credentials or "").strip().splitlines()
    named = {url: line[len(url) :].strip() for line in lines for url in daemons if line.startswith(f"{url} ")}
    if named or credentials is None or len(lines) > 1:
        return named
    if len(daemons) > 1:
        raise BadInput(
            "with several IPFS daemons, the store's credentials need a line for each: its URL as --store has it, a "
            "space, and bearer:TOKEN or basic:USER:PASSWORD"
        )
    return dict.fromkeys(daemons, credentials)


def _gateway(url: str) -> str:
    parts = _split(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or " " in parts.netloc or "@" in parts.netloc or parts.query or parts.fragment:
        raise _refusal(url)
    path = parts.path.rstrip("/")
    if port == _KUBO_PORT and not path:
        raise BadInput(f"{url[:200]!r} is no blob store; port {port} is that of Kubo's RPC: give ipfs+{url[:200]}")
    return f"{parts.scheme}://{parts.netloc}{path or '/ipfs'}"


def _kubo_address(url: str) -> str | None:
    if url.startswith(_MULTIADDRS):
        return url
    if not url.startswith(("ipfs+http://", "ipfs+https://")):
        return None
    parts = _split(url)
    try:
        host, port = parts.hostname, parts.port or _KUBO_PORT
    except ValueError:
        host = None
    if not host or "@" in parts.netloc or parts.path.rstrip("/") or parts.query or parts.fragment:
        raise _refusal(url)
    kind = "ip6" if ":" in host else "ip4" if host.replace(".", "").isdigit() else "dns"
    return f"/{kind}/{host}/tcp/{port}/{parts.scheme.removeprefix('ipfs+')}"


def _path(url: str) -> Path:
    if "://" not in url:
        if not url or "\0" in url:
            raise _refusal(url)
        return Path(url).expanduser()
    parts = _split(url)
    path = unquote(parts.path)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or path in ("", "/") or "\0" in path:
        raise _refusal(url)
    return Path(path)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise _refusal(url) from None


def _refusal(url: str) -> BadInput:
    shown = re.sub(r"//.*@", "//…@", url[:200])  # a password may stand before the @
    return BadInput(f"{shown!r} is no blob store: {_ACCEPTED}")
