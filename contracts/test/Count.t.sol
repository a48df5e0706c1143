// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ITrainingLedger, JobId, Phase, Round, Stage} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

contract CountTest is BaseTest {
    /* WHAT IT DOES */

    function test_count(uint8 chosen) public {
        _openRoundOf(6);
        uint64 counted = uint64(chosen) & 63;
        vm.assume(_ones(counted) >= 4);
        Round memory expected = _round();
        (expected.stage, expected.committed) = (Stage.Unmasking, counted);
        expected.revealEnd = uint32(block.timestamp + REVEAL_WINDOW);

        _expectEvent();
        emit ITrainingLedger.Counted(job, 1, 0, _coordinator(0), counted, expected.revealEnd);
        _count(counted);

        vm.assertEq(abi.encode(_round()), abi.encode(expected));
        _assertPhase(Phase.Revealing);
    }

    function test_unmasking_has_its_whole_window_however_late_the_count(uint32 late) public {
        _openToCount(3);
        _skip(_bound(late, 0, 2 * SETTLE_WINDOW));
        _count(7);
        vm.assertEq(_round().revealEnd, block.timestamp + REVEAL_WINDOW);
    }

    /// @dev As an overdue settlement is taken while nobody has replaced the coordinator.
    function test_while_nobody_has_replaced_the_coordinator() public {
        _openToCount(3);
        _skip(SETTLE_WINDOW - 1);
        _assertPhase(Phase.Counting);
        _skip(1);
        _assertPhase(Phase.Overdue);
        _count(7);
        _assertPhase(Phase.Revealing);
    }

    function test_who_is_not_counted_has_missed_the_attempt() public {
        _openRoundOf(6);
        _count(31);
        for (uint256 i; i < 5; i++) _unmask(i);
        _settle(31, _equalScores(5));
        vm.assertEq(_member(5).misses, 1);
        vm.assertEq(_member(5).stake, 1 ether, "and owes nothing");
        vm.assertEq(_member(0).misses, 0);
    }

    /// @dev With `missLimit` 2: whoever commits to what nobody can fetch does not keep its seat by it.
    function test_who_is_never_counted_loses_its_seat() public {
        _openRoundOf(6);
        for (uint256 k; k < 2; k++) {
            if (k != 0) _commitMaskedAll(6);
            _count(31);
            for (uint256 i; i < 5; i++) _unmask(i);
            _settle(31, _equalScores(5));
        }
        vm.assertEq(_member(5).seatPlusOne, 0);
        vm.assertEq(_credit(5), 1 ether, "with its stake");
    }

    function test_who_is_not_counted_may_leave() public {
        _openRoundOf(6);
        _count(31);
        _leave(5);
        vm.assertEq(_round().committed, 31);
        vm.assertEq(_state().cohort, 31);
    }

    function test_with_too_few_the_attempt_is_void(uint8 chosen) public {
        _openRoundOf(6);
        uint64 counted = uint64(chosen) & 63;
        vm.assume(_ones(counted) < 4);
        Round memory expected = _round();
        (expected.committed, expected.revealEnd) = (counted, 0);

        _expectEvent();
        emit ITrainingLedger.Counted(job, 1, 0, _coordinator(0), counted, 0);
        _count(counted);

        vm.assertEq(abi.encode(_round()), abi.encode(expected));
        _assertPhase(Phase.Starved);
    }

    function test_an_attempt_is_void_until_the_last_second_in_which_a_count_is_in_time() public {
        _openToCount(3);
        _skip(SETTLE_WINDOW - 1);
        _count(0);
        _assertPhase(Phase.Starved);
    }

    function test_a_void_attempt_is_opened_again_and_nobody_pays() public {
        _openRoundOf(6);
        _count(7);
        ledger.restartRound(job);
        vm.assertEq(uint8(_round().stage), uint8(Stage.Masking));
        vm.assertEq(_round().attempt, 1);
        vm.assertEq(_round().committed, 0);
        for (uint256 i; i < 6; i++) {
            vm.assertEq(_member(i).stake, 1 ether);
            vm.assertEq(_member(i).misses, i < 3 ? 0 : 1);
        }
    }

    /* WHAT IT REFUSES */

    function test_only_in_counting(uint8 which) public {
        Phase phase = Phase(which % 9);
        vm.assume(phase != Phase.Counting);
        _bring(phase);
        Round memory current = _round();
        _expectWrongPhase(phase);
        vm.prank(_coordinator(0));
        ledger.count(job, current.number, current.attempt, 7);
    }

    function test_not_twice() public {
        _openToCount(3);
        _count(7);
        _expectWrongPhase(Phase.Revealing);
        _countAs(_coordinator(0), 7);
        _unmaskAll(3);
        _expectWrongPhase(Phase.Settling);
        _countAs(_coordinator(0), 7);
        _skip(SETTLE_WINDOW);
        _expectWrongPhase(Phase.Overdue);
        _countAs(_coordinator(0), 7);
    }

    function test_a_void_attempt_is_not_counted_again() public {
        _openToCount(3);
        _count(3);
        _expectWrongPhase(Phase.Starved);
        _countAs(_coordinator(0), 7);
        _skip(SETTLE_WINDOW);
        _expectWrongPhase(Phase.Starved);
        _countAs(_coordinator(0), 3);
    }

    /// @dev Whoever missed its deadline cannot say any more that there was nothing to do.
    function test_an_overdue_count_makes_no_attempt_void(uint8 chosen, uint32 late) public {
        _openRoundOf(6);
        uint64 counted = uint64(chosen) & 63;
        vm.assume(_ones(counted) < 4);
        _skip(_bound(late, SETTLE_WINDOW, 2 * SETTLE_WINDOW));
        _expectError(ITrainingLedger.TooFewCounted.selector, 4);
        vm.prank(_coordinator(0));
        ledger.count(job, 1, 0, counted);
    }

    function test_nobody_is_counted_who_did_not_commit(uint64 counted) public {
        vm.assume(counted & ~uint64(7) != 0);
        _openToCount(3);
        _expectError(ITrainingLedger.NotCountable.selector, counted & ~uint64(7));
        _countAs(_coordinator(0), counted);
    }

    function test_only_for_the_open_round_and_attempt(uint24 round, uint16 attempt) public {
        vm.assume(round != 0 || attempt != 0);
        _openToCount(3);
        _expectWrongRound(0, 0);
        vm.prank(_coordinator(0));
        ledger.count(job, round, attempt, 7);
    }

    function test_only_the_serving_coordinator(address caller) public {
        vm.assume(caller != _coordinator(0));
        _openToCount(3);
        _expectError(ITrainingLedger.NotCoordinator.selector, _coordinator(0));
        _countAs(caller, 7);
    }

    function test_an_unknown_job_is_refused(JobId unknown) public {
        vm.assume(JobId.unwrap(unknown) != JobId.unwrap(job));
        _expectUnknownJob(unknown);
        ledger.count(unknown, 0, 0, 7);
    }

    /// @dev Brings a new masked job to Counting in its second round, of which n are the cohort.
    function _openRoundOf(uint256 n) internal {
        _newJob(_masked());
        _withMost(n, 3);
        _playMasked(3);
        _commitMaskedAll(n);
        _assertPhase(Phase.Counting);
    }

    function _countAs(address caller, uint64 counted) internal {
        vm.prank(caller);
        ledger.count(job, 0, 0, counted);
    }
}
