"""Lists of who may join: the root that the contract holds, and the paths to it."""

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from deepledger.auditor.audit import intruders
from deepledger.auditor.findings import Kind
from deepledger.protocol.chain.events import Joined, Position
from deepledger.protocol.errors import BadInput
from deepledger.protocol.formats.admission import admission_proof, admission_root
from deepledger.protocol.job.fetch import check_admitted
from deepledger.protocol.types import Address, JobId, Seconds

ACCOUNTS = ["0x" + f"{number + 1:040x}" for number in range(9)]


def climbs(account: str, proof: tuple[bytes, ...]) -> bytes:
    """As `_isAdmitted` in TrainingLedger.sol."""
    node = keccak(encode(["bytes32"], [keccak(encode(["address"], [account]))]))
    for beside in proof:
        node = keccak(encode(["bytes32", "bytes32"], sorted([node, beside])))
    return node


@pytest.mark.parametrize("count", range(1, 10))
def test_everyone_on_a_list_has_a_path_to_its_root(count):
    listed = ACCOUNTS[:count]
    root = admission_root(listed)
    assert all(climbs(account, admission_proof(listed, account)) == root for account in listed)
    assert admission_root(listed[::-1]) == root == admission_root([*listed, listed[0]])


def test_nobody_else_has_one():
    root = admission_root(ACCOUNTS[:5])
    assert admission_proof(ACCOUNTS[:5], ACCOUNTS[7]) == ()
    assert all(climbs(ACCOUNTS[7], admission_proof(ACCOUNTS[:5], other)) != root for other in ACCOUNTS[:5])


def test_without_a_list_anyone_may_join(spec_of):
    assert admission_root([]) == bytes(32)
    check_admitted(spec_of(), ACCOUNTS[0])


def test_who_is_not_listed_is_told_before_it_agrees(spec_of):
    spec = spec_of(admitted=ACCOUNTS[:2])
    check_admitted(spec, ACCOUNTS[1].upper().replace("X", "x"))
    with pytest.raises(BadInput, match="only the 2 accounts"):
        check_admitted(spec, ACCOUNTS[2])


def test_an_audit_names_who_was_let_in_without_being_listed(spec_of):
    at = Position(block=1, log_index=0, block_hash="0x" + "11" * 32, transaction="0x" + "22" * 32, timestamp=Seconds(5))
    joined = [
        Joined(at=at, job=JobId(1), participant=Address(account), seat=seat, samples=1, key=bytes(32))
        for seat, account in enumerate(ACCOUNTS[:3])
    ]
    (finding,) = intruders(joined, spec_of(admitted=ACCOUNTS[:2]))
    assert (finding.kind, finding.claimed) == (Kind.RULE, ACCOUNTS[2])
    assert list(intruders(joined, spec_of())) == []
