"""Amounts for people."""

from __future__ import annotations

from decimal import Decimal

from deepledger.protocol.types import Wei

_ETHER, _GWEI = 10**18, 10**9
_DECIMALS = 9


def eth(amount: Wei) -> str:
    """To nine decimals; an ellipsis after all nine of them says that there is more. Below that, in wei."""
    if 0 < abs(amount) < _GWEI:
        return f"{amount} wei"
    scaled = Decimal(amount) / _ETHER
    cut = scaled.quantize(Decimal(1).scaleb(-_DECIMALS), rounding="ROUND_DOWN")
    if cut != scaled:
        return f"{cut:f}… ETH"
    return f"{f'{cut:f}'.rstrip('0').rstrip('.')} ETH"
