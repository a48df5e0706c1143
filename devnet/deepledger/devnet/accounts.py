"""The ten accounts of every devnet: those of the well-known test mnemonic, so that anvil and the embedded chain agree.

Their keys are public. Never fund them on a real chain.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from deepledger.devnet.errors import needs_extra

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

MNEMONIC = "test test test test test test test test test test test junk"
COUNT = 10
BALANCE_ETHER = 10_000


@cache
def dev_accounts() -> tuple[LocalAccount, ...]:
    """The accounts m/44'/60'/0'/0/0 to …/9 of the mnemonic, each with 10,000 ETH on a new devnet."""
    with needs_extra():
        from eth_account import Account
        from eth_account.hdaccount import key_from_seed, seed_from_mnemonic
    seed = seed_from_mnemonic(MNEMONIC, "")
    return tuple(Account.from_key(key_from_seed(seed, f"m/44'/60'/0'/0/{index}")) for index in range(COUNT))
