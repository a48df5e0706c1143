"""What can go wrong and is expected to.

Everything here is shown to the user as one line that says what is wrong and what to do; anything else is a bug and
shows a traceback. The command line exits with `exit_code`.

    DeepledgerError
    ├── BadInput                 what the user gave cannot be used                         3
    │   ├── BadSpec              a job file or spec that does not validate
    │   ├── BadVector            bytes that are not a vector of the job's layout
    │   ├── TaskMismatch         no local task source with the pinned hash
    │   └── BadKey               no such account, or a wrong password
    ├── ChainError               the chain, or how we reach it                             4
    │   ├── ChainUnreachable     down, slow, or it dropped the connection
    │   ├── ChainNonsense        an answer that no honest node gives
    │   ├── WrongChain           another chain id than expected
    │   ├── NoLedger             no TrainingLedger at the address
    │   ├── InsufficientFunds    the account cannot pay for the transaction
    │   └── LedgerRejected       the contract refused: one of its custom errors, with its arguments
    ├── BlobError                the blob store                                            5
    │   ├── StoreUnreachable     the daemon is down or hangs, the folder cannot be written
    │   ├── BlobMissing          nobody serves the blob
    │   │   └── BlobLate         it did not come in time: nobody has it, or the store is slow
    │   └── BlobCorrupt          other bytes than the digest promises, or another length
    ├── StateError               this machine's own files, or another process using them   6
    │   ├── AccountInUse         another node acts for the same account
    │   └── OutOfTime            a task has not answered for as long as that is waited for
    ├── Diverged                 what participants trained is worthless: the job is to be ended    8
    └── PrivacySpent             the next round would pass the budget of ε that the operator set   9
"""

from __future__ import annotations

from typing import Any, ClassVar


class DeepledgerError(Exception):
    """Root of everything that is expected to happen."""

    exit_code: ClassVar[int] = 1


class BadInput(DeepledgerError):
    exit_code = 3


class BadSpec(BadInput):
    pass


class BadVector(BadInput):
    pass


class TaskMismatch(BadInput):
    pass


class BadKey(BadInput):
    pass


class ChainError(DeepledgerError):
    exit_code = 4


class ChainUnreachable(ChainError):
    pass


class ChainNonsense(ChainError):
    pass


class WrongChain(ChainError):
    pass


class NoLedger(ChainError):
    pass


class InsufficientFunds(ChainError):
    pass


class LedgerRejected(ChainError):
    """The contract refused a call.

    `name` is the Solidity error (for example "JobFull"), `arguments` its named arguments.
    """

    def __init__(self, message: str, *, name: str, arguments: dict[str, Any]) -> None:
        super().__init__(message)
        self.name = name
        self.arguments = arguments


class BlobError(DeepledgerError):
    exit_code = 5


class StoreUnreachable(BlobError):
    pass


class BlobMissing(BlobError):
    pass


class BlobLate(BlobMissing):
    pass


class BlobCorrupt(BlobError):
    pass


class StateError(DeepledgerError):
    exit_code = 6


class AccountInUse(StateError):
    pass


class OutOfTime(StateError):
    pass


class Diverged(DeepledgerError):
    exit_code = 8


class PrivacySpent(DeepledgerError):
    exit_code = 9
