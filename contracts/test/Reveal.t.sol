// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ITrainingLedger, JobId, Phase, Round} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

contract RevealTest is BaseTest {
    /* WHAT IT DOES */

    function test_reveal(bytes32 digest, bytes32 root, bytes32 salt) public {
        _open(2);
        _commit(1);
        _commitTo(0, digest, root, salt);
        Round memory expected = _round();
        expected.revealed = 1;

        _expectEvent();
        emit ITrainingLedger.Revealed(job, 0, _participant(0), digest, root, salt);
        _revealAs(_participant(0), digest, root, salt);

        vm.assertEq(abi.encode(_round()), abi.encode(expected));
        _assertPhase(Phase.Revealing);
    }

    function test_the_last_one_closes_revealing(uint32 late) public {
        _openAndCommit(3);
        _reveal(2);
        _reveal(0);
        _skip(late % REVEAL_WINDOW);
        _assertPhase(Phase.Revealing);
        _reveal(1);
        _assertPhase(Phase.Settling);
        vm.assertEq(_round().revealEnd, block.timestamp);
    }

    function test_only_those_who_committed_are_waited_for() public {
        _open(4);
        _commitAll(3);
        _skip(COMMIT_WINDOW);
        _revealAll(3);
        _assertPhase(Phase.Settling);
        vm.assertEq(_round().revealed, 7);
    }

    function test_in_the_first_and_the_last_second_of_revealing() public {
        _open(3);
        _commit(0);
        _commit(1);
        _skip(COMMIT_WINDOW);
        _reveal(0);
        _skip(REVEAL_WINDOW - 1);
        _reveal(1);
        vm.assertEq(_round().revealed, 3);
    }

    /* WHAT IT REFUSES */

    function test_anything_but_what_was_committed_to_is_refused(bytes32 digest, bytes32 root, bytes32 salt) public {
        vm.assume(digest != _digest(0, 0) && root != _root(0, 0) && salt != _salt(0, 0));
        _openAndCommit(2);
        _expectMismatch(0);
        _revealAs(_participant(0), digest, _root(0, 0), _salt(0, 0));
        _expectMismatch(0);
        _revealAs(_participant(0), _digest(0, 0), root, _salt(0, 0));
        _expectMismatch(0);
        _revealAs(_participant(0), _digest(0, 0), _root(0, 0), salt);
    }

    function test_somebody_elses_commitment_cannot_be_opened() public {
        _open(2);
        _commit(0);
        bytes30 copied = _commitment(0, 0);
        vm.prank(_participant(1));
        ledger.commit(job, 0, 0, copied);
        _expectMismatch(1);
        _revealAs(_participant(1), _digest(0, 0), _root(0, 0), _salt(0, 0));
    }

    function test_an_earlier_rounds_commitment_cannot_be_opened() public {
        _open(2);
        _playRound(2);
        bytes30 old = _commitment(0, 0);
        vm.prank(_participant(0));
        ledger.commit(job, 1, 0, old);
        _commit(1);
        _expectMismatch(0);
        _revealAs(_participant(0), _digest(0, 0), _root(0, 0), _salt(0, 0));
    }

    function test_another_jobs_commitment_cannot_be_opened() public {
        bytes30 other = _commitment(0, 0);
        _newJob(_terms());
        _open(2);
        _commit(1);
        vm.prank(_participant(0));
        ledger.commit(job, 0, 0, other);
        _expectMismatch(0);
        _revealAs(_participant(0), _digest(0, 0), _root(0, 0), _salt(0, 0));
    }

    function test_another_chains_commitment_cannot_be_opened() public {
        _openAndCommit(2);
        vm.chainId(99);
        _expectMismatch(0);
        _revealAs(_participant(0), _digest(0, 0), _root(0, 0), _salt(0, 0));
    }

    function test_only_in_revealing(uint8 which) public {
        Phase phase = Phase(which % 9);
        vm.assume(phase != Phase.Revealing);
        _bring(phase);
        if (phase == Phase.Committing) _commit(0);
        _expectWrongPhase(phase);
        _revealAs(_participant(0), _digest(0, 0), _root(0, 0), _salt(0, 0));
    }

    function test_not_from_the_second_on_in_which_revealing_ends() public {
        _openAndCommit(3);
        _reveal(0);
        _reveal(1);
        _skip(REVEAL_WINDOW);
        _expectWrongPhase(Phase.Settling);
        _revealAs(_participant(2), _digest(2, 0), _root(2, 0), _salt(2, 0));
    }

    function test_not_with_too_few_commitments() public {
        _open(3);
        _commit(0);
        _skip(COMMIT_WINDOW);
        _expectWrongPhase(Phase.Starved);
        _revealAs(_participant(0), _digest(0, 0), _root(0, 0), _salt(0, 0));
    }

    function test_who_is_not_seated_is_refused(address caller) public {
        vm.assume(caller != _participant(0) && caller != _participant(1));
        _openAndCommit(2);
        _expectError(ITrainingLedger.NotSeated.selector, caller);
        _revealAs(caller, 0, 0, 0);
    }

    function test_who_has_not_committed_is_refused() public {
        _open(3);
        _commit(0);
        _commit(1);
        _skip(COMMIT_WINDOW);
        _expectError(ITrainingLedger.NotCommitted.selector, _participant(2));
        _revealAs(_participant(2), 0, 0, 0);
    }

    function test_last_rounds_commitment_is_none() public {
        _open(3);
        _playRound(3);
        _commit(0);
        _commit(1);
        _skip(COMMIT_WINDOW);
        _expectError(ITrainingLedger.NotCommitted.selector, _participant(2));
        _revealAs(_participant(2), _digest(2, 0), _root(2, 0), _salt(2, 0));
    }

    function test_only_once() public {
        _openAndCommit(2);
        _reveal(0);
        _expectError(ITrainingLedger.AlreadyRevealed.selector, _participant(0));
        _revealAs(_participant(0), _digest(0, 0), _root(0, 0), _salt(0, 0));
    }

    function test_an_unknown_job_is_refused(JobId unknown) public {
        vm.assume(JobId.unwrap(unknown) != JobId.unwrap(job));
        _expectUnknownJob(unknown);
        ledger.reveal(unknown, 0, 0, 0);
    }

    function _commitTo(uint256 i, bytes32 digest, bytes32 root, bytes32 salt) internal {
        bytes30 commitment = ledger.commitmentFor(job, 0, _participant(i), digest, root, salt);
        vm.prank(_participant(i));
        ledger.commit(job, 0, 0, commitment);
    }

    function _revealAs(address caller, bytes32 digest, bytes32 root, bytes32 salt) internal {
        vm.prank(caller);
        ledger.reveal(job, digest, root, salt);
    }

    function _expectMismatch(uint256 i) internal {
        bytes32 kept = ledger.commitmentOf(job, _participant(i));
        _expectError(ITrainingLedger.CommitmentMismatch.selector, uint256(kept));
    }
}
