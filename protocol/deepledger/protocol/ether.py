"""Amounts for people."""

from __future__ import annotations

from decimal import Decimal

from deepledger.protocol.types import Wei

_ETHER, _GWEI = 10**18, 10**9
_DECIMALS = 9


def eth(amount: Wei) -> str:
    """To nine decimals; an ellipsis says that there is more. Below that, in wei."""
    if 0 < abs(amount) < _GWEI:
        return f"{amount} wei"
    scaled = Decimal(amount) / _ETHER
    cut = scaled.quantize(Decimal(1).scaleb(-_DECIMALS), rounding="ROUND_DOWN")
    text = f"{cut:f}".rstrip("0").rstrip(".")
    return f"{text}{'…' if cut != scaled else ''} ETH"
