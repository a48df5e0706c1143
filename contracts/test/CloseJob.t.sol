// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ITrainingLedger, JobId, JobTerms, Outcome, Phase, Stage} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

contract CloseJobTest is BaseTest {
    /* WHAT IT DOES */

    function test_closeJob_in_waiting_returns_the_escrow(uint24 rounds, uint96 reward, bool bonded, bool joined) public {
        JobTerms memory terms = _terms();
        (terms.rounds, terms.reward) = (uint24(_bound(rounds, 1, type(uint24).max)), uint96(_bound(reward, 1, type(uint96).max)));
        _newJob(terms);
        if (bonded) _postBond(0);
        if (joined) _join(0);
        uint256 budget = uint256(terms.rounds) * terms.reward;

        _expectEvent();
        emit ITrainingLedger.JobEnded(job, Outcome.Withdrawn, budget);
        _close();

        vm.assertEq(ledger.creditOf(job, sponsor), budget);
        vm.assertEq(_state().escrow, 0);
        vm.assertEq(uint256(_round().stage), uint256(Stage.Over));
        _assertPhase(Phase.Over);
    }

    function test_nothing_is_credited_when_nothing_is_left() public {
        JobTerms memory terms = _terms();
        terms.reward = 0;
        _newJob(terms);
        vm.recordLogs();
        _close();
        _assertLogCount(1);
        vm.assertEq(ledger.creditOf(job, sponsor), 0);
    }

    function test_the_reward_of_settled_rounds_does_not_come_back() public {
        _open(2);
        _playRound(2);
        _skip(COMMIT_WINDOW);
        _assertPhase(Phase.Starved);
        _close();
        vm.assertEq(ledger.creditOf(job, sponsor), 18 ether);
        vm.assertEq(_round().number, 1, "the number of settled rounds is kept");
        vm.assertEq(_round().seated, 2);
        vm.assertEq(_round().commitEnd + _round().revealEnd + _round().committed, 0);
    }

    /// @dev Some were counted and none of them unmasked, or too few were counted.
    function test_after_a_count_that_nobody_unmasked_nobody_pays(bool void) public {
        _openToCount(3);
        _count(void ? 3 : 7);
        if (!void) _skip(REVEAL_WINDOW);
        _assertPhase(Phase.Starved);
        _close();
        for (uint256 i; i < 3; i++) {
            vm.assertEq(_member(i).misses, 0);
            _leave(i);
            vm.assertEq(_credit(i), 1 ether);
        }
        vm.assertEq(ledger.creditOf(job, sponsor), 27 ether);
        vm.prank(_coordinator(0));
        ledger.releaseBond(job);
        vm.assertEq(ledger.creditOf(job, _coordinator(0)), 5 ether);
    }

    /// @dev All are alike: nobody has shown anything, and nobody profits from a chain that stood still.
    function test_where_nobody_revealed_nobody_pays() public {
        _openAndCommit(3);
        _skip(REVEAL_WINDOW);
        _assertPhase(Phase.Starved);
        _close();
        for (uint256 i; i < 3; i++) {
            vm.assertEq(_member(i).stake, 1 ether);
            vm.assertEq(_credit(i), 0);
        }
        vm.assertEq(ledger.creditOf(job, sponsor), 27 ether);
    }

    function test_what_divisions_left_over_goes_to_the_sponsor() public {
        JobTerms memory terms = _terms();
        (terms.rounds, terms.reward) = (2, 11);
        _newJob(terms);
        _open(3);
        _playRound(3);
        _skip(COMMIT_WINDOW);
        _close();
        for (uint256 i; i < 3; i++) vm.assertEq(_credit(i), 3);
        vm.assertEq(ledger.creditOf(job, sponsor), 11 + 2);
    }

    function test_everybody_can_go_home_afterwards(bool starved) public {
        if (starved) _starve();
        else _join(0);
        _postBond(1);
        _close();

        for (uint256 i; i < (starved ? 3 : 1); i++) {
            _leave(i);
            _withdraw(_participant(i));
        }
        for (uint256 i = starved ? 0 : 1; i < 2; i++) {
            vm.prank(_coordinator(i));
            ledger.releaseBond(job);
            vm.assertEq(_withdraw(_coordinator(i)), 5 ether);
        }
        _withdraw(sponsor);
        vm.assertEq(address(ledger).balance, 0);
    }

    function test_rounds_that_were_settled_with_a_withheld_set_wait_for_its_key(bool starved) public {
        _newJobOfThreeRounds();
        _playRound(2);
        if (starved) _skip(COMMIT_WINDOW);
        else _leave(0);
        if (!starved) _skip(COMMIT_WINDOW);
        _assertPhase(Phase.Starved);

        _expectEvent();
        emit ITrainingLedger.DisclosureDue(job, Outcome.Withdrawn, uint32(block.timestamp + SETTLE_WINDOW));
        _close();
        _assertPhase(Phase.Disclosing);
        vm.assertEq(_state().escrow, 18 ether, "the escrow stays");
        vm.assertEq(ledger.creditOf(job, sponsor), 0);

        _expectEvent();
        emit ITrainingLedger.JobEnded(job, Outcome.Withdrawn, 18 ether);
        _disclose();
        vm.assertEq(ledger.creditOf(job, sponsor), 18 ether);
    }

    function test_without_a_settled_round_no_key_is_waited_for() public {
        _newJobOfThreeRounds();
        _skip(COMMIT_WINDOW);
        _close();
        _assertPhase(Phase.Over);
    }

    function _newJobOfThreeRounds() internal {
        JobTerms memory terms = _terms();
        terms.validationLock = LOCK;
        _newJob(terms);
        _open(2);
    }

    /* WHAT IT REFUSES */

    function test_only_the_sponsor_may(address caller) public {
        vm.assume(caller != sponsor);
        _expectError(ITrainingLedger.NotSponsor.selector, sponsor);
        vm.prank(caller);
        ledger.closeJob(job);
    }

    function test_not_while_a_round_can_be_settled(uint8 which) public {
        Phase phase = Phase(which % 9);
        vm.assume(phase != Phase.Waiting && phase != Phase.Starved);
        _bring(phase);
        _expectWrongPhase(phase);
        _close();
    }

    function test_an_unknown_job_is_refused(JobId unknown) public {
        vm.assume(JobId.unwrap(unknown) != JobId.unwrap(job));
        _expectUnknownJob(unknown);
        vm.prank(sponsor);
        ledger.closeJob(unknown);
    }
}
