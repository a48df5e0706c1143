// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ITrainingLedger, JobId, Phase, Round} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

contract UnmaskTest is BaseTest {
    /* WHAT IT DOES */

    function test_unmask(bytes32 digest, uint8 which) public {
        vm.assume(digest != 0);
        which %= 3;
        _openToUnmask(3);
        Round memory expected = _round();
        expected.revealed = uint64(1) << which;

        _expectEvent();
        emit ITrainingLedger.Unmasked(job, 0, _participant(which), digest);
        _unmaskAs(_participant(which), digest);

        vm.assertEq(abi.encode(_round()), abi.encode(expected));
    }

    function test_until_the_last_second_of_the_window() public {
        _openToUnmask(3);
        _skip(REVEAL_WINDOW - 1);
        _unmask(0);
        vm.assertEq(_round().revealed, 1);
    }

    function test_the_last_one_closes_unmasking(uint32 late) public {
        _openToUnmask(3);
        _skip(late % REVEAL_WINDOW);
        _unmask(2);
        _unmask(0);
        _assertPhase(Phase.Revealing);
        _unmask(1);
        _assertPhase(Phase.Settling);
        vm.assertEq(_round().revealEnd, block.timestamp);
    }

    function test_who_unmasks_has_missed_nothing() public {
        _newJob(_masked());
        _open(3);
        _commitMasked(0);
        _commitMasked(1);
        _skip(COMMIT_WINDOW);
        ledger.restartRound(job);
        _commitMaskedAll(3);
        _count(7);
        vm.assertEq(_member(2).misses, 1);
        _unmask(2);
        vm.assertEq(_member(2).misses, 0);
        vm.assertEq(_member(2).seatPlusOne, 3, "the seat stays");
    }

    function test_where_nobody_does_the_round_starves_and_nobody_pays() public {
        _openToUnmask(3);
        _skip(REVEAL_WINDOW);
        _assertPhase(Phase.Starved);
        ledger.restartRound(job);
        vm.assertEq(_round().attempt, 1);
        for (uint256 i; i < 3; i++) {
            vm.assertEq(_member(i).stake, 1 ether);
            vm.assertEq(_member(i).misses, 0);
        }
    }

    /* WHAT IT REFUSES */

    function test_only_in_a_masked_round_that_is_counted(uint8 which) public {
        Phase phase = Phase(which % 9);
        _bring(phase);
        _expectWrongPhase(phase);
        _unmaskAs(_participant(0), "early, late or open");
    }

    function test_nothing_is_revealed_in_a_masked_round() public {
        _openToUnmask(3);
        _expectWrongPhase(Phase.Revealing);
        vm.prank(_participant(0));
        ledger.reveal(job, "digest", "root", "salt");
    }

    function test_not_from_the_second_on_in_which_the_window_ends() public {
        _openToUnmask(3);
        _unmask(0);
        _skip(REVEAL_WINDOW);
        _expectWrongPhase(Phase.Settling);
        _unmaskAs(_participant(1), "late");
    }

    function test_only_for_the_open_round_and_attempt(uint24 round, uint16 attempt) public {
        vm.assume(round != 0 || attempt != 0);
        _openToUnmask(3);
        _expectWrongRound(0, 0);
        vm.prank(_participant(0));
        ledger.unmask(job, round, attempt, "for another");
    }

    function test_who_is_not_seated_is_refused(address caller) public {
        vm.assume(caller != _participant(0) && caller != _participant(1) && caller != _participant(2));
        _openToUnmask(3);
        _expectError(ITrainingLedger.NotSeated.selector, caller);
        _unmaskAs(caller, "stranger");
    }

    function test_who_is_not_counted_is_refused() public {
        _newJob(_masked());
        _withMost(6, 3);
        _playMasked(3);
        _commitMaskedAll(6);
        _count(31);
        _expectError(ITrainingLedger.NotCommitted.selector, _participant(5));
        vm.prank(_participant(5));
        ledger.unmask(job, 1, 0, "not in the sum");
    }

    function test_who_came_after_the_opening_is_refused() public {
        _openToUnmask(3);
        _join(3);
        _expectError(ITrainingLedger.NotCommitted.selector, _participant(3));
        _unmaskAs(_participant(3), "late");
    }

    function test_only_once(bytes32 second) public {
        vm.assume(second != 0);
        _openToUnmask(3);
        _unmask(0);
        _expectError(ITrainingLedger.AlreadyRevealed.selector, _participant(0));
        _unmaskAs(_participant(0), second);
    }

    function test_not_nothing() public {
        _openToUnmask(3);
        _expectError(ITrainingLedger.ZeroDigest.selector);
        _unmaskAs(_participant(0), 0);
    }

    function test_an_unknown_job_is_refused(JobId unknown) public {
        vm.assume(JobId.unwrap(unknown) != JobId.unwrap(job));
        _expectUnknownJob(unknown);
        ledger.unmask(unknown, 0, 0, "digest");
    }

    function _unmaskAs(address caller, bytes32 digest) internal {
        vm.prank(caller);
        ledger.unmask(job, 0, 0, digest);
    }
}
