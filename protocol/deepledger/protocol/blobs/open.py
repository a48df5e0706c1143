"""Which store a URL stands for."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadInput

_ACCEPTED = "give a folder (file:///dir or a path) or a Kubo RPC (ipfs+http://host:port or /ip4/host/tcp/port/http)"
_MULTIADDRS = ("/ip4/", "/ip6/", "/dns/", "/dns4/", "/dns6/", "/unix/")


def open_store(
    url: str,
    *,
    timeout: float = 30,
    fetch_timeout: float = 60,
    credentials: str | None = None,
    fetches: bool = True,
) -> BlobStore:
    """The store at `url`; nothing is contacted before its first use. What may be given besides concerns IPFS only.

    With `fetches` false, a daemon serves what it has and asks nobody else: who serves strangers wants that.

    A path that begins like a multiaddr is one; write file:///ip4/… for the folder.
    """
    api = _kubo_address(url)
    if api is None:
        return DirectoryStore(_folder(url))
    from deepledger.protocol.blobs.ipfs import IpfsStore  # ipfshttpclient only where it is used

    return IpfsStore(api, timeout=timeout, fetch_timeout=fetch_timeout, credentials=credentials, fetches=fetches)


def _kubo_address(url: str) -> str | None:
    if url.startswith(_MULTIADDRS):
        return url
    if not url.startswith(("ipfs+http://", "ipfs+https://")):
        return None
    parts = _split(url)
    try:
        host, port = parts.hostname, parts.port or 5001
    except ValueError:
        host = None
    if not host or "@" in parts.netloc or parts.path.rstrip("/") or parts.query or parts.fragment:
        raise _refusal(url)
    kind = "ip6" if ":" in host else "ip4" if host.replace(".", "").isdigit() else "dns"
    return f"/{kind}/{host}/tcp/{port}/{parts.scheme.removeprefix('ipfs+')}"


def _folder(url: str) -> Path:
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
