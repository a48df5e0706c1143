// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Departure, ITrainingLedger, JobId, JobTerms, Member, Phase} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

contract LeaveTest is BaseTest {
    /* WHAT IT DOES */

    function test_leave(uint96 stake, uint8 which) public {
        which %= 3;
        JobTerms memory terms = _terms();
        terms.stake = uint96(_bound(stake, terms.revealPenalty, type(uint96).max));
        _newJob(terms);
        _open(3);
        uint256 held = address(ledger).balance;

        _expectEvent();
        emit ITrainingLedger.Left(job, _participant(which), which, Departure.Voluntary, terms.stake);
        _leave(which);

        vm.assertEq(_credit(which), terms.stake);
        vm.assertEq(address(ledger).balance, held, "it is credited, not sent");
        Member memory nobody;
        vm.assertEq(abi.encode(_member(which)), abi.encode(nobody));
        vm.assertEq(ledger.commitmentOf(job, _participant(which)), bytes30(0));
        vm.assertEq(ledger.participantAt(job, which), address(0));
        vm.assertEq(_state().seats, uint64(7) & ~(uint64(1) << which));
        vm.assertEq(_round().seated, 2);
    }

    function test_what_was_earned_in_the_seat_is_kept() public {
        _open(2);
        _playRound(2);
        _leave(1);
        vm.assertEq(_credit(1), 5.5 ether);
        vm.assertEq(_withdraw(_participant(1)), 5.5 ether);
    }

    function test_what_is_left_of_the_stake_is_given_back() public {
        _openAndCommit(3);
        _reveal(0);
        _reveal(1);
        _skip(REVEAL_WINDOW);
        _settleAll(2);
        _expectEvent();
        emit ITrainingLedger.Left(job, _participant(2), 2, Departure.Voluntary, 0.6 ether);
        _leave(2);
        vm.assertEq(_credit(2), 0.6 ether);
    }

    function test_who_has_not_committed_may_in_any_phase(uint8 which) public {
        Phase phase = Phase(which % 9);
        vm.assume(phase != Phase.Disclosing);
        if (phase == Phase.Over || phase == Phase.Waiting) _join(3);
        _bring(phase);
        if (phase != Phase.Over && phase != Phase.Waiting) _join(3);
        _leave(3);
        vm.assertEq(_credit(3), 1 ether);
        _assertPhase(phase);
    }

    function test_everyone_may_while_the_key_is_due_and_inherits_nothing_then() public {
        _bring(Phase.Disclosing);
        uint256 earned = _credit(1);
        _leave(1);
        vm.assertEq(_credit(1), earned + 1 ether);
        vm.assertEq(_round().revealed, 5);
        _assertPhase(Phase.Disclosing);
        _skip(SETTLE_WINDOW);
        ledger.replaceCoordinator(job);
        vm.assertEq(_credit(0), earned + 2.5 ether);
        vm.assertEq(_credit(1), earned + 1 ether);
        vm.assertEq(_credit(2), earned + 2.5 ether);
    }

    function test_everyone_may_when_the_job_is_over() public {
        _bring(Phase.Overdue);
        ledger.replaceCoordinator(job);
        _assertPhase(Phase.Over);
        for (uint256 i; i < 3; i++) _leave(i);
        vm.assertEq(_round().seated, 0);
        vm.assertEq(_state().seats, 0);
    }

    function test_when_only_it_was_waited_for_committing_closes() public {
        _open(3);
        _commit(0);
        _commit(2);
        _skip(1);
        _leave(1);
        _assertPhase(Phase.Revealing);
        vm.assertEq(_round().commitEnd, START + 1);
        vm.assertEq(_round().revealEnd, START + COMMIT_WINDOW + REVEAL_WINDOW, "no sooner than announced");
        _reveal(0);
        _reveal(2);
        _assertPhase(Phase.Settling);
    }

    function test_when_others_are_waited_for_committing_goes_on() public {
        _open(4);
        _commit(0);
        _commit(2);
        _leave(1);
        _assertPhase(Phase.Committing);
        vm.assertEq(_round().commitEnd, START + COMMIT_WINDOW);
        vm.assertEq(_round().seated, 3);
    }

    function test_when_everybody_leaves_the_round_is_still_open() public {
        _open(2);
        _leave(0);
        _leave(1);
        _assertPhase(Phase.Committing);
        _skip(COMMIT_WINDOW);
        _assertPhase(Phase.Starved);
        ledger.restartRound(job);
        _assertPhase(Phase.Waiting);
    }

    function test_once_committing_is_over_leaving_moves_no_deadline() public {
        _open(3);
        _commit(0);
        _commit(1);
        _skip(COMMIT_WINDOW);
        _leave(2);
        vm.assertEq(_round().commitEnd, START + COMMIT_WINDOW);
        vm.assertEq(_round().revealEnd, START + COMMIT_WINDOW + REVEAL_WINDOW);
        _assertPhase(Phase.Revealing);
    }

    function test_after_the_round_it_committed_in_it_may() public {
        _open(2);
        _playRound(2);
        _leave(0);
        vm.assertEq(_member(0).seatPlusOne, 0);
    }

    /* MASKED */

    function test_who_leaves_a_masked_attempt_is_out_of_it() public {
        _newJob(_masked());
        _open(3);
        _leave(1);
        vm.assertEq(_state().cohort, 5);
        vm.assertEq(_round().least, 3, "as many are needed as before");
    }

    function test_nobody_leaves_who_is_counted_or_waits_for_the_count(bool counted) public {
        _openToCount(3);
        if (counted) _count(7);
        _expectError(ITrainingLedger.CommitmentOutstanding.selector, 0);
        _leave(1);
    }

    /* WHAT IT REFUSES */

    function test_not_while_it_has_committed(uint8 which) public {
        Phase phase = Phase(which % 9);
        vm.assume(phase != Phase.Waiting && phase != Phase.Disclosing && phase != Phase.Over);
        _bring(phase);
        if (phase == Phase.Committing) _commit(0);
        _expectError(ITrainingLedger.CommitmentOutstanding.selector, 0);
        _leave(0);
    }

    function test_who_is_not_seated_is_refused(address caller) public {
        _expectError(ITrainingLedger.NotSeated.selector, caller);
        vm.prank(caller);
        ledger.leave(job);
    }

    function test_only_once() public {
        _join(0);
        _leave(0);
        _expectError(ITrainingLedger.NotSeated.selector, _participant(0));
        _leave(0);
    }

    function test_an_unknown_job_is_refused(JobId unknown) public {
        vm.assume(JobId.unwrap(unknown) != JobId.unwrap(job));
        _expectUnknownJob(unknown);
        ledger.leave(unknown);
    }
}
