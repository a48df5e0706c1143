"""Says in one line what the contract's refusal means and what to do about it."""

from __future__ import annotations

from typing import Any, Final

from deepledger.protocol.chain import abi as codec
from deepledger.protocol.chain.abi import Abi
from deepledger.protocol.chain.events import Phase
from deepledger.protocol.errors import ChainNonsense, LedgerRejected

_PHASES: Final = {
    Phase.WAITING: "it waits for participants or for the coordinator's bond",
    Phase.COMMITTING: "participants are committing",
    Phase.COUNTING: "the coordinator is to count whose masked updates it has",
    Phase.REVEALING: "participants are revealing, or releasing shares",
    Phase.SETTLING: "the coordinator is to settle",
    Phase.STARVED: "too few committed, or nobody revealed, and anyone may restart the round",
    Phase.OVERDUE: "the coordinator missed its deadline and anyone may replace it",
    Phase.DISCLOSING: "the last round is over and the key of the validation set is to be disclosed",
    Phase.OVER: "it is over",
}

MESSAGES: Final = {
    "UnknownJob": "there is no job {job}; `deepledger job list` shows those there are",
    "WrongPhase": "the job does not allow this now: {actual}; see `deepledger status` and wait for the right phase",
    "WrongRound": "this was meant for another round than the open one, {current}, or for another attempt "
    "at it than {attempt}; run the command again",
    "WrongTerms": "the job's terms are not those that were agreed to: the chain may have taken back the block in which "
    "it was made, and given its number to another; look at it again with `deepledger job show`",
    "WrongValue": "the transaction must carry exactly {expected} wei; check the amount in the job's terms",
    "NotSponsor": "only the job's sponsor {sponsor} may do this; use its account",
    "NotCoordinator": "only a coordinator of the job may do this, now {coordinator}; use its account",
    "NotSeated": "{account} has no seat in the job; join it first",
    "ZeroRounds": "a job needs at least one round; set rounds",
    "BadWindow": "each window has {least} to {most} seconds on this ledger: less than a few blocks is a trap, more "
    "locks stakes for long; change the commit, reveal and settle windows",
    "ZeroDigest": "a digest or root is missing; publish the blob first and give its digest",
    "BadParticipantLimits": "at least one participant, at most {most}, and no more least than most; correct the limits",
    "TooFewToHide": "a masked job needs at least {least} participants: of two, each learns the other's update from the "
    "sum; raise the least number of participants",
    "ZeroMissLimit": "a participant must be allowed at least one missed round; set the miss limit",
    "PenaltyExceedsDeposit": "a penalty is more than the deposit of {deposit} wei it is taken from; lower the penalty",
    "BadCoordinatorCount": "a job needs one to {most} coordinators; correct the list",
    "BadCoordinator": "{coordinator} is zero or listed twice; correct the list of coordinators",
    "BondAlreadyPosted": "this coordinator's bond of {bond} wei is posted already; nothing is left to do",
    "NoBond": "{coordinator} has no bond in deposit; there is nothing to release",
    "BondInUse": "the serving coordinator's bond stays while a round can be settled, an attempt that its count "
    "made void is not restarted, or a withheld validation set is not disclosed ({phase}); let the coordinator go on, "
    "or try again when a round has starved of itself or the job has ended",
    "TooEarly": "a successor takes over once its bond has been in deposit for a settle window, from timestamp {from} "
    "on; wait until then",
    "NotAdmitted": "{account} is not on the job's list of those who may join; ask its sponsor, or use a listed account",
    "JobFull": "all {most} seats of the job are taken; wait until one is free or join another job",
    "AlreadySeated": "this account sits in seat {seat} already; run the node without joining again",
    "ZeroSamples": "a participant needs at least one training sample; check the data",
    "BadKey": "whoever joins a masked job brings a key to mask with, and in any other job nobody does; check the job's "
    "mode, and that this program is of the job's version",
    "NotInCohort": "{account} was not seated when this attempt opened; wait for the next round",
    "TooFewCounted": "a count that is overdue is of {least} at least, since who has fewer says so in time; count more, "
    "or wait to be replaced",
    "NotCountable": "seats were counted that have not committed (mask {seats:#x}); count without them",
    "AlreadyCommitted": "this account has committed in this round already; keep its update to reveal it",
    "NotCommitted": "{participant} has not committed in this round, or is not counted in it; wait for the next one",
    "AlreadyRevealed": "{participant} has revealed already; wait for the settlement",
    "CommitmentMismatch": "digest, root and salt do not open the commitment; reveal what was committed",
    "CommitmentOutstanding": "this account has committed in round {round}; reveal, and leave after the settlement",
    "StaleReveals": "the settlement was made from other reveals than those on the chain (mask {revealed:#x}); look "
    "again and settle with them",
    "NotRevealed": "updates were accepted of seats that did not reveal (mask {seats:#x}); settle without them",
    "BadScoreCount": "there must be {expected} scores, one per accepted seat; settle with those",
    "WrongKey": "this is not the key of the job's validation set, or the set is public; use the key that the spec "
    "seals to each coordinator",
    "AlreadyDisclosed": "the key of the validation set is on the chain already; nothing is left to do",
    "NothingToWithdraw": "{account} has nothing to withdraw from this job; earn a reward first",
    "TransferFailed": "{account} refused the payment; if it is a contract, it must accept ether",
}
"""By the name of the Solidity error; the fields are its arguments."""

_SOLIDITY_ERROR: Final = bytes.fromhex("08c379a0")  # Error(string)
_SOLIDITY_PANIC: Final = bytes.fromhex("4e487b71")  # Panic(uint256)


def refusal(abi: Abi, data: bytes) -> LedgerRejected:
    """What revert data says, as an exception to raise."""
    decoded = codec.raised(abi, data)
    if decoded is not None:
        name, arguments = decoded
        shown = {key: _PHASES[value] if isinstance(value, Phase) else value for key, value in arguments.items()}
        return LedgerRejected(MESSAGES[name].format(**shown), name=name, arguments=arguments)
    name = {_SOLIDITY_ERROR: "Error", _SOLIDITY_PANIC: "Panic"}.get(data[:4], "Revert")
    return LedgerRejected(
        "the contract refused and gave no reason that we know; check the contract address and this program's version",
        name=name,
        arguments={"data": "0x" + data.hex()},
    )


def revert_data(answer: Any) -> bytes | None:
    """Revert data from the `data` of a JSON-RPC error: nodes put it there bare, or nested in an object."""
    for _ in range(3):
        if isinstance(answer, dict):
            answer = answer.get("data", answer.get("result"))
    if not isinstance(answer, str):
        return None
    text = answer.removeprefix("Reverted ")
    try:
        return bytes.fromhex(text.removeprefix("0x")) if text.startswith("0x") else None
    except ValueError:
        raise ChainNonsense("the node gave revert data that is not hexadecimal; use another RPC endpoint") from None
