"""A TrainingLedger on a real chain: implements `Reader` and `Ledger` over JSON-RPC.

Import this where a chain is spoken to, not at the top of a command line: it brings web3 with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepledger.protocol.chain import abi as codec
from deepledger.protocol.chain import wire
from deepledger.protocol.chain.endpoints import reach
from deepledger.protocol.chain.events import JobCreated, JobTerms
from deepledger.protocol.chain.heads import HeadFeed, websocket_url
from deepledger.protocol.chain.inclusion import STUCK_AFTER, Sender
from deepledger.protocol.chain.ledger import Head, Receipt
from deepledger.protocol.chain.rationed import Ration, Rationed
from deepledger.protocol.chain.reading import ChainReader, no_contract
from deepledger.protocol.chain.rpc import NodeRefused, Rpc, result
from deepledger.protocol.chain.sending import send_all, transact
from deepledger.protocol.chain.signing import MOST_PER_GAS, REPEAT, Call
from deepledger.protocol.errors import BadInput, ChainNonsense, NoLedger, WrongChain
from deepledger.protocol.types import Address, Digest, JobId, Root, RoundNumber, Seconds, Wei

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount
    from web3.providers import JSONBaseProvider

TIMEOUT: Final = 10.0
PATIENCE: Final = 180.0
BLOCKS_PER_QUERY: Final = 2000
LEAST_WINDOW: Final = Seconds(60)
"""Five blocks of Ethereum, and thirty of most other chains."""
_TIMED: Final = frozenset(  # done by the clock
    {"reveal", "count", "unmask", "settle", "restartRound", "replaceCoordinator", "takeOver"}
)
LOCKS: Final = Path("~/.deepledger/locks")


class ChainLedger(ChainReader):
    """Implements `Ledger`."""

    def __init__(self, sender: Sender, address: Address, *, blocks_per_query: int, confirmations: int = 0) -> None:
        super().__init__(
            sender.rpc,
            address,
            chain_id=sender.chain_id,
            feed=sender.feed,
            blocks_per_query=blocks_per_query,
            confirmations=confirmations,
        )
        self.account = sender.address
        self._sender = sender

    def create_job(self, terms: JobTerms, coordinators: Sequence[Address]) -> tuple[JobId, Receipt]:
        receipt = self._act(
            "createJob",
            terms,
            list(coordinators),
            value=terms.rounds * terms.reward,
            if_unsure="look at `deepledger job list` before you run the command again, which would lock another budget",
        )
        created = [event.job for event in receipt.events if isinstance(event, JobCreated)]
        if len(created) != 1:
            raise ChainNonsense(f"transaction {receipt.transaction} created no job; use another RPC endpoint")
        return created[0], receipt

    def close_job(self, job: JobId) -> Receipt:
        return self._act("closeJob", job)

    def post_bond(self, job: JobId, *, terms_hash: bytes, value: Wei) -> Receipt:
        return self._act("postBond", job, terms_hash, value=value)

    def release_bond(self, job: JobId) -> Receipt:
        return self._act("releaseBond", job)

    def join(
        self, job: JobId, samples: int, *, terms_hash: bytes, proof: Sequence[bytes] = (), key: bytes, value: Wei
    ) -> Receipt:
        return self._act("join", job, terms_hash, samples, list(proof), key, value=value)

    def leave(self, job: JobId) -> Receipt:
        return self._act("leave", job)

    def commit(self, job: JobId, round: RoundNumber, attempt: int, commitment: bytes) -> Receipt:
        return self._act("commit", job, round, attempt, commitment)

    def reveal(self, job: JobId, *, digest: Digest, root: Root, salt: bytes) -> Receipt:
        return self._act("reveal", job, digest, root, salt)

    def commit_masked(self, job: JobId, round: RoundNumber, attempt: int, digest: Digest) -> Receipt:
        return self._act("commitMasked", job, round, attempt, digest)

    def count(self, job: JobId, round: RoundNumber, attempt: int, seats: int) -> Receipt:
        return self._act("count", job, round, attempt, seats)

    def unmask(self, job: JobId, round: RoundNumber, attempt: int, digest: Digest) -> Receipt:
        return self._act("unmask", job, round, attempt, digest)

    def settle(
        self,
        job: JobId,
        round: RoundNumber,
        *,
        model_digest: Digest,
        model_root: Root,
        report_digest: Digest,
        revealed: int,
        accepted: int,
        scores: Sequence[int],
    ) -> Receipt:
        digests = model_digest, model_root, report_digest
        return self._act("settle", job, round, *digests, revealed, accepted, list(scores))

    def restart_round(self, job: JobId) -> Receipt:
        return self._act("restartRound", job)

    def replace_coordinator(self, job: JobId) -> Receipt:
        return self._act("replaceCoordinator", job)

    def take_over(self, job: JobId) -> Receipt:
        return self._act("takeOver", job)

    def disclose(self, job: JobId, key: bytes) -> Receipt:
        return self._act("disclose", job, key)

    def withdraw(self, job: JobId) -> Receipt:
        return self._act("withdraw", job)

    def send_all(self, to: Address) -> Wei:
        return send_all(self._sender, to)

    def send(self, to: Address, amount: Wei) -> Receipt:
        """From this account to another, past the contract."""
        return transact(self._sender, Call(sender=self.account, to=to, data="0x", value=amount), self._read)

    def gas_price(self) -> Wei:
        """What is usual now. A transaction may be offered twice that."""
        return Wei(wire.quantity(self.rpc.call("eth_gasPrice"), "a gas price"))

    def _act(self, function: str, *arguments: Any, value: int = 0, if_unsure: str = REPEAT) -> Receipt:
        data = codec.calldata(self._abi, function, *arguments)
        timed = function in _TIMED
        call = Call(
            sender=self.account,
            to=self.address,
            data=data,
            value=Wei(value),
            if_unsure=if_unsure,
            timed=timed,
            probe=codec.calldata(self._abi, "leastWindow"),
        )
        return transact(self._sender, call, self._done)

    def _done(self, receipt: dict[str, Any]) -> Receipt:
        """Every action has its events. Raises `ChainNonsense` where there are none."""
        done = self._read(receipt)
        if not done.events:
            raise ChainNonsense(
                f"the node shows nothing that transaction {done.transaction} did at {self.address}: is that still the "
                "same chain? Use another RPC endpoint"
            )
        return done

    def _read(self, receipt: dict[str, Any]) -> Receipt:
        block = wire.count(receipt.get("blockNumber"), "a block number")
        # The ledger pays by calling accounts; a contract among them may emit logs of its own.
        ours = [
            log
            for log in wire.items(receipt.get("logs"), "a receipt's logs")
            if wire.address(wire.fields(log, "a log").get("address"), "a log's address") == self.address.lower()
        ]
        return _receipt(receipt, events=tuple(self._logs.decoded(ours, first_block=block, last_block=block)))


def connect(
    node: str | Sequence[str] | JSONBaseProvider,
    address: str,
    *,
    chain_id: int | None = None,
    timeout: float = TIMEOUT,
    ws_url: str | None = None,
    blocks_per_query: int = BLOCKS_PER_QUERY,
    confirmations: int = 0,
    tell: Callable[[str], None] | None = None,
    ration: Ration | None = None,
) -> ChainReader:
    """`node` is an RPC URL, several of one chain, or a web3 provider; `ws_url` is derived from the first RPC URL if not
    given. `tell` hears what keeps an answer waiting. With a `ration`, the node is asked no more often than that says.

    With `confirmations`, a block counts once as many lie on top of it; time is the newest block's all the same.

    Raises `ChainUnreachable`, `ChainNonsense`, `WrongChain`, `NoLedger`, `BadInput`.
    """
    rpc = reach(node, timeout=timeout, tell=tell)
    place = _checksummed(address)
    found = _verified(rpc, place, expected=chain_id)
    return ChainReader(
        rpc if ration is None else Rationed(rpc, ration),
        place,
        chain_id=found,
        feed=_feed(node, ws_url, timeout=timeout),
        blocks_per_query=blocks_per_query,
        confirmations=confirmations,
    )


def connect_as(
    node: str | Sequence[str] | JSONBaseProvider,
    address: str,
    account: LocalAccount,
    *,
    chain_id: int | None = None,
    timeout: float = TIMEOUT,
    ws_url: str | None = None,
    blocks_per_query: int = BLOCKS_PER_QUERY,
    confirmations: int = 0,
    locks: Path = LOCKS,
    patience: float = PATIENCE,
    stuck_after: float = STUCK_AFTER,
    most_per_gas: Wei = MOST_PER_GAS,
    tell: Callable[[str], None] | None = None,
) -> ChainLedger:
    """As `connect`, with an account that signs.

    `patience`: seconds to wait for a transaction to be in a block; `stuck_after`: seconds until more is offered for it.
    """
    rpc = reach(node, timeout=timeout, tell=tell)
    place = _checksummed(address)
    found = _verified(rpc, place, expected=chain_id)
    sender = Sender(
        rpc=rpc,
        abi=codec.ledger_abi(),
        feed=_feed(node, ws_url, timeout=timeout),
        account=account,
        chain_id=found,
        locks=locks.expanduser(),
        patience=patience,
        stuck_after=stuck_after,
        most_per_gas=most_per_gas,
    )
    return ChainLedger(sender, place, blocks_per_query=blocks_per_query, confirmations=confirmations)


def deploy(
    node: str | Sequence[str] | JSONBaseProvider,
    account: LocalAccount,
    *,
    least_window: Seconds = LEAST_WINDOW,
    chain_id: int | None = None,
    timeout: float = TIMEOUT,
    locks: Path = LOCKS,
    patience: float = PATIENCE,
    most_per_gas: Wei = MOST_PER_GAS,
    tell: Callable[[str], None] | None = None,
) -> tuple[Address, Receipt]:
    """Put a new TrainingLedger on the chain, whose jobs have no window shorter than `least_window`."""
    from deepledger.contracts import load

    rpc = reach(node, timeout=timeout, tell=tell)
    feed = _feed(node, None, timeout=timeout)
    try:
        found = wire.quantity(rpc.call("eth_chainId"), "a chain id")
        _expect(found, chain_id, rpc)
        sender = Sender(
            rpc=rpc,
            abi=codec.ledger_abi(),
            feed=feed,
            account=account,
            chain_id=found,
            locks=locks.expanduser(),
            patience=patience,
            most_per_gas=most_per_gas,
        )
        call = Call(
            sender=sender.address,
            to=None,
            data="0x" + load().bytecode.hex() + least_window.to_bytes(32, "big").hex(),
            value=Wei(0),
            if_unsure="look it up before you run the command again, which would pay for another contract",
        )

        def read(receipt: dict[str, Any]) -> tuple[Address, Receipt]:
            address = _checksummed(wire.address(receipt.get("contractAddress"), "a contract's address"))
            _verified(rpc, address, expected=found)
            return address, _receipt(receipt, events=())

        return transact(sender, call, read)
    finally:
        feed.close()
        rpc.close()


def newest_block(
    node: str | Sequence[str], *, chain_id: int | None = None, timeout: float = TIMEOUT
) -> tuple[int, Head]:
    """The chain id, and the newest block, whatever contracts are there."""
    rpc = reach(node, timeout=timeout)
    try:
        chain, block = rpc.batch(("eth_chainId", []), ("eth_getBlockByNumber", ["latest", False]))
        found = wire.quantity(result(chain), "a chain id")
        _expect(found, chain_id, rpc)
        return found, wire.head(result(block))
    finally:
        rpc.close()


def knows_pending(node: str | Sequence[str], *, timeout: float = TIMEOUT) -> bool:
    """Whether the node counts transactions and tries calls as of the block to come."""
    rpc = reach(node, timeout=timeout)
    nobody = "0x" + 40 * "0"
    try:
        answers = rpc.batch(
            ("eth_getTransactionCount", [nobody, "pending"]),
            ("eth_estimateGas", [{"from": nobody, "to": nobody}, "pending"]),
        )
        return not any(isinstance(answer, NodeRefused) for answer in answers)
    finally:
        rpc.close()


def _receipt(receipt: dict[str, Any], *, events: tuple[Any, ...]) -> Receipt:
    gas_used = wire.count(receipt.get("gasUsed"), "gas used")
    return Receipt(
        transaction=wire.hash32(receipt.get("transactionHash"), "a transaction hash"),
        block=wire.count(receipt.get("blockNumber"), "a block number"),
        gas_used=gas_used,
        fee=Wei(gas_used * wire.quantity(receipt.get("effectiveGasPrice"), "a gas price")),
        events=events,
    )


def _verified(rpc: Rpc, address: Address, *, expected: int | None) -> int:
    """The chain id, if it is the expected one and our contract's code is at the address."""
    from deepledger.contracts import load

    chain, code = rpc.batch(("eth_chainId", []), ("eth_getCode", [address, "latest"]))
    found = wire.quantity(result(chain), "a chain id")
    _expect(found, expected, rpc)
    deployed = wire.data(result(code), "a contract's code")
    if not deployed:
        raise no_contract(address, found)
    if deployed != load().deployed_bytecode:
        raise NoLedger(
            f"the contract at {address} on chain {found} is not the TrainingLedger of this version; check the address, "
            "or install the version that it was deployed with"
        )
    return found


def _expect(found: int, expected: int | None, rpc: Rpc) -> None:
    if expected is not None and found != expected:
        raise WrongChain(f"{rpc.place} is on chain {found}, and chain {expected} is expected; check the RPC URL")


def _feed(node: str | Sequence[str] | JSONBaseProvider, ws_url: str | None, *, timeout: float) -> HeadFeed:
    urls = [node] if isinstance(node, str) else node
    return HeadFeed(ws_url or (websocket_url(urls[0]) if isinstance(urls, Sequence) else None), timeout=timeout)


def _checksummed(address: str) -> Address:
    from eth_utils.address import is_address, to_checksum_address

    if not is_address(address):
        raise BadInput(f"{address!r} is no contract address; give 0x and 40 hexadecimal digits")
    return Address(to_checksum_address(address))
