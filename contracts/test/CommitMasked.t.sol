// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ITrainingLedger, JobId, JobTerms, Phase, Round, Stage} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

contract CommitMaskedTest is BaseTest {
    function setUp() public override {
        super.setUp();
        _newJob(_masked());
    }

    /* THE ATTEMPT */

    function test_an_attempt_opens_with_all_who_are_seated(uint8 seated) public {
        uint256 n = _bound(seated, 3, 8);
        _withMost(n, uint8(n));
        vm.assertEq(uint8(_round().stage), uint8(Stage.Masking));
        vm.assertEq(_state().cohort, _seats(n));
        vm.assertEq(_round().commitEnd, START + COMMIT_WINDOW);
        vm.assertEq(_round().revealEnd, START + COMMIT_WINDOW, "there is nothing to reveal before a count");
    }

    /// forge-config: default.fuzz.runs = 32
    function test_it_needs_two_thirds_of_them(uint8 seated) public {
        uint256 n = _bound(seated, 3, 64);
        _withMost(n, 3);
        _playMasked(3);
        vm.assertEq(_round().number, 1);
        vm.assertEq(_state().cohort, _seats(n));
        uint256 needed = n == 3 ? 3 : (2 * n + 2) / 3;
        vm.assertEq(_round().least, needed);
        for (uint256 i; i + 1 < needed; i++) _commitMasked(i);
        _skip(COMMIT_WINDOW);
        _assertPhase(Phase.Starved);
        vm.warp(block.timestamp - 1);
        _commitMasked(needed - 1);
        _skip(1);
        _assertPhase(Phase.Counting);
    }

    function test_it_needs_no_fewer_than_the_job_does() public {
        _withMost(7, 7);
        vm.assertEq(_round().least, 7, "two thirds would be five");
    }

    function test_the_next_attempt_is_opened_by_the_least_of_the_job() public {
        _withMost(8, 3);
        _playMasked(3);
        vm.assertEq(_round().least, 6);
        for (uint256 i; i < 5; i++) _leave(i);
        _skip(COMMIT_WINDOW);
        ledger.restartRound(job);
        vm.assertEq(uint8(_round().stage), uint8(Stage.Masking), "three are seated");
        vm.assertEq(_round().least, 3);
    }

    /* WHAT IT DOES */

    function test_commit_masked(bytes32 digest, uint8 which) public {
        vm.assume(digest != 0);
        which %= 3;
        _open(3);
        Round memory expected = _round();
        expected.committed = uint64(1) << which;

        _expectEvent();
        emit ITrainingLedger.CommittedMasked(job, 0, 0, _participant(which), digest);
        _commitAs(_participant(which), digest);

        vm.assertEq(abi.encode(_round()), abi.encode(expected));
        vm.assertEq(ledger.commitmentOf(job, _participant(which)), bytes32(0), "nothing opens it");
        vm.assertEq(_member(which).seatPlusOne, which + 1, "the seat stays");
    }

    function test_until_the_last_second_of_committing() public {
        _open(3);
        _skip(COMMIT_WINDOW - 1);
        _commitMasked(0);
        vm.assertEq(_round().committed, 1);
    }

    function test_the_last_one_closes_committing(uint32 late) public {
        _open(3);
        _skip(late % COMMIT_WINDOW);
        _commitMasked(2);
        _commitMasked(0);
        _assertPhase(Phase.Committing);
        _commitMasked(1);
        _assertPhase(Phase.Counting);
        vm.assertEq(_round().commitEnd, block.timestamp);
        vm.assertEq(_round().revealEnd, block.timestamp, "the window to count runs from here");
    }

    function test_who_came_later_is_not_waited_for() public {
        _open(3);
        _join(3);
        _commitMaskedAll(3);
        _assertPhase(Phase.Counting);
    }

    function test_who_leaves_is_not_waited_for_and_the_count_is_due_as_announced() public {
        _withMost(8, 3);
        _playMasked(3);
        _skip(1);
        for (uint256 i; i < 7; i++) _commitMasked(i);
        uint32 announced = _round().revealEnd;
        _leave(7);
        _assertPhase(Phase.Counting);
        vm.assertEq(_round().revealEnd, announced);
        vm.assertEq(_state().cohort, _seats(7));
    }

    function test_too_few_do_not_close_it_however_many_leave() public {
        _withMost(8, 3);
        _playMasked(3);
        for (uint256 i; i < 5; i++) _commitMasked(i);
        for (uint256 i = 5; i < 8; i++) _leave(i);
        _assertPhase(Phase.Committing);
        _skip(COMMIT_WINDOW);
        _assertPhase(Phase.Starved);
    }

    /// @dev Whoever's letters nobody can fetch would keep its seat for ever.
    function test_committing_alone_does_not_make_up_for_a_miss() public {
        _open(3);
        _commitMasked(0);
        _commitMasked(1);
        _skip(COMMIT_WINDOW);
        ledger.restartRound(job);
        vm.assertEq(_member(2).misses, 1);
        _commitMasked(2);
        vm.assertEq(_member(2).misses, 1);
    }

    /* WHAT IT REFUSES */

    function test_only_in_committing(uint8 which) public {
        Phase phase = Phase(which % 9);
        vm.assume(phase != Phase.Committing);
        job = JobId.wrap(1);
        termsHash = _state().termsHash;
        _bring(phase);
        _expectWrongPhase(phase);
        _commitAs(_participant(0), "late");
    }

    function test_not_in_an_open_round_nor_an_open_commitment_in_a_masked_one() public {
        _open(3);
        _expectWrongPhase(Phase.Committing);
        vm.prank(_participant(0));
        ledger.commit(job, 0, 0, "open");
        _newJob(_terms());
        _open(3);
        _expectWrongPhase(Phase.Committing);
        _commitAs(_participant(0), "masked");
    }

    function test_not_from_the_second_on_in_which_committing_ends() public {
        _withMost(6, 3);
        _playMasked(3);
        for (uint256 i; i < 5; i++) _commitMasked(i);
        _skip(COMMIT_WINDOW);
        Round memory current = _round();
        _expectWrongPhase(Phase.Counting);
        vm.prank(_participant(5));
        ledger.commitMasked(job, current.number, current.attempt, "late");
    }

    function test_only_for_the_open_round_and_attempt(uint24 round, uint16 attempt) public {
        vm.assume(round != 0 || attempt != 1);
        _open(3);
        _skip(COMMIT_WINDOW);
        ledger.restartRound(job);
        _expectWrongRound(0, 1);
        vm.prank(_participant(0));
        ledger.commitMasked(job, round, attempt, "for another");
    }

    function test_who_is_not_seated_is_refused(address caller) public {
        vm.assume(caller != _participant(0) && caller != _participant(1) && caller != _participant(2));
        _open(3);
        _expectError(ITrainingLedger.NotSeated.selector, caller);
        _commitAs(caller, "stranger");
    }

    function test_who_came_after_the_opening_is_refused() public {
        _open(3);
        _join(3);
        _expectError(ITrainingLedger.NotInCohort.selector, _participant(3));
        _commitAs(_participant(3), "late");
    }

    /// @dev The others mask with the key of whom they knew when the attempt opened.
    function test_who_takes_a_freed_seat_is_refused_be_it_the_same(bool same) public {
        _open(3);
        _leave(1);
        uint256 heir = same ? 1 : 3;
        _join(heir);
        vm.assertEq(_member(heir).seatPlusOne, 2);
        _expectError(ITrainingLedger.NotInCohort.selector, _participant(heir));
        _commitAs(_participant(heir), "heir");
    }

    function test_only_once(bytes32 second) public {
        vm.assume(second != 0);
        _open(3);
        _commitMasked(0);
        _expectError(ITrainingLedger.AlreadyCommitted.selector, _participant(0));
        _commitAs(_participant(0), second);
    }

    function test_not_to_nothing() public {
        _open(3);
        _expectError(ITrainingLedger.ZeroDigest.selector);
        _commitAs(_participant(0), 0);
    }

    function test_an_unknown_job_is_refused(JobId unknown) public {
        vm.assume(JobId.unwrap(unknown) > 2 || JobId.unwrap(unknown) == 0);
        _expectUnknownJob(unknown);
        ledger.commitMasked(unknown, 0, 0, "digest");
    }

    function _commitAs(address caller, bytes32 digest) internal {
        vm.prank(caller);
        ledger.commitMasked(job, 0, 0, digest);
    }
}
