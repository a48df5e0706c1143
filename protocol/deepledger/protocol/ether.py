"""Amounts for people."""

from __future__ import annotations

from deepledger.protocol.types import Wei

_ETHER, _GWEI = 10**18, 10**9
_DECIMALS = 9
_SHOWN = _ETHER // 10**_DECIMALS  # wei, of which only whole ones are


def eth(amount: Wei) -> str:
    """To nine decimals; an ellipsis after all nine of them says that there is more. Below that, in wei."""
    if 0 < abs(amount) < _GWEI:
        return f"{amount} wei"
    sign, size = "-" if amount < 0 else "", abs(amount)
    whole, rest = divmod(size // _SHOWN, _ETHER // _SHOWN)
    digits = f"{rest:0{_DECIMALS}d}"
    if size % _SHOWN:
        return f"{sign}{whole}.{digits}… ETH"
    return f"{sign}{f'{whole}.{digits}'.rstrip('0').rstrip('.')} ETH"
