// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ITrainingLedger, JobId, Phase, Round} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

contract CommitTest is BaseTest {
    /* WHAT IT DOES */

    function test_commit(bytes30 commitment, uint8 which) public {
        vm.assume(commitment != 0);
        which %= 3;
        _open(3);
        Round memory expected = _round();
        expected.committed = uint64(1) << which;

        _expectEvent();
        emit ITrainingLedger.Committed(job, 0, _participant(which), commitment);
        _commitAs(_participant(which), commitment);

        vm.assertEq(abi.encode(_round()), abi.encode(expected));
        vm.assertEq(_kept(which), commitment);
        vm.assertEq(_member(which).seatPlusOne, which + 1, "the seat stays");
        vm.assertEq(_member(which).samples, 100 + which);
        vm.assertEq(_member(which).stake, 1 ether);
    }

    function test_until_the_last_second_of_committing() public {
        _open(3);
        _skip(COMMIT_WINDOW - 1);
        _commit(0);
        vm.assertEq(_round().committed, 1);
    }

    function test_the_last_one_closes_committing(uint32 late) public {
        _open(3);
        _skip(late % COMMIT_WINDOW);
        _commit(2);
        _commit(0);
        _assertPhase(Phase.Committing);
        _commit(1);
        _assertPhase(Phase.Revealing);
        vm.assertEq(_round().commitEnd, block.timestamp);
        vm.assertEq(_round().revealEnd, block.timestamp + REVEAL_WINDOW);
    }

    function test_nobody_closes_committing_while_one_is_waited_for() public {
        _open(3);
        _commit(0);
        _commit(1);
        vm.assertEq(_round().commitEnd, START + COMMIT_WINDOW);
        _skip(COMMIT_WINDOW);
        _assertPhase(Phase.Revealing);
        vm.assertEq(_round().revealEnd, START + COMMIT_WINDOW + REVEAL_WINDOW);
    }

    function test_who_commits_has_missed_nothing() public {
        _starve();
        ledger.restartRound(job);
        vm.assertEq(_member(1).misses, 1);
        _commit(1);
        vm.assertEq(_member(1).misses, 0);
        vm.assertEq(_member(2).misses, 1);
    }

    function test_again_in_the_next_attempt() public {
        _starve();
        ledger.restartRound(job);
        vm.prank(_participant(0));
        ledger.commit(job, 0, 1, "another");
        vm.assertEq(_kept(0), bytes30("another"));
    }

    function test_again_in_the_next_round() public {
        _open(2);
        _playRound(2);
        _commit(0);
        vm.assertEq(_kept(0), _commitment(0, 1));
    }

    function test_a_commitment_does_not_stay_with_the_seat() public {
        _open(2);
        _playRound(2);
        _leave(0);
        _join(2);
        vm.assertEq(_round().committed, 0);
        vm.assertEq(_kept(2), bytes30(0));
    }

    /* WHAT IT REFUSES */

    function test_only_in_committing(uint8 which) public {
        Phase phase = Phase(which % 9);
        vm.assume(phase != Phase.Committing);
        _bring(phase);
        _expectWrongPhase(phase);
        _commitAs(_participant(0), "late");
    }

    function test_not_from_the_second_on_in_which_committing_ends() public {
        _open(3);
        _commit(0);
        _commit(1);
        _skip(COMMIT_WINDOW);
        _expectWrongPhase(Phase.Revealing);
        _commitAs(_participant(2), "late");
    }

    function test_only_for_the_open_round_and_attempt(uint24 round, uint16 attempt) public {
        vm.assume(round != 1 || attempt != 1);
        _open(2);
        _playRound(2);
        _skip(COMMIT_WINDOW);
        ledger.restartRound(job);
        _expectWrongRound(1, 1);
        vm.prank(_participant(0));
        ledger.commit(job, round, attempt, "for another");
        vm.prank(_participant(0));
        ledger.commit(job, 1, 1, "for this one");
    }

    function test_who_is_not_seated_is_refused(address caller) public {
        vm.assume(caller != _participant(0) && caller != _participant(1));
        _open(2);
        _expectError(ITrainingLedger.NotSeated.selector, caller);
        _commitAs(caller, "stranger");
    }

    function test_who_left_is_refused() public {
        _open(3);
        _leave(1);
        _expectError(ITrainingLedger.NotSeated.selector, _participant(1));
        _commitAs(_participant(1), "gone");
    }

    function test_only_once(bytes30 first, bytes30 second) public {
        vm.assume(first != 0 && second != 0);
        _open(3);
        _commitAs(_participant(0), first);
        _expectError(ITrainingLedger.AlreadyCommitted.selector, _participant(0));
        _commitAs(_participant(0), second);
        vm.assertEq(_kept(0), first);
    }

    function test_an_unknown_job_is_refused(JobId unknown) public {
        vm.assume(JobId.unwrap(unknown) != JobId.unwrap(job));
        _expectUnknownJob(unknown);
        ledger.commit(unknown, 0, 0, "commitment");
    }

    function _commitAs(address caller, bytes30 commitment) internal {
        vm.prank(caller);
        ledger.commit(job, 0, 0, commitment);
    }

    /// @dev What is compared at the reveal.
    function _kept(uint256 i) internal view returns (bytes32) {
        return ledger.commitmentOf(job, _participant(i));
    }
}
