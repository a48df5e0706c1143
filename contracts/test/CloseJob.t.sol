// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Departure, ITrainingLedger, JobId, JobState, JobTerms, Outcome, Phase} from "../src/interfaces/ITrainingLedger.sol";
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
        emit ITrainingLedger.JobEnded(job, Outcome.Withdrawn);
        _expectEvent();
        emit ITrainingLedger.Credited(job, sponsor, budget);
        _close();

        vm.assertEq(ledger.creditOf(job, sponsor), budget);
        JobState memory state = _state();
        vm.assertTrue(state.over);
        vm.assertEq(state.escrow, 0);
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
        vm.assertEq(_round().commitEnd + _round().revealEnd + _round().commits, 0);
    }

    function test_penalties_go_to_those_who_revealed(uint96 penalty) public {
        JobTerms memory terms = _terms();
        (terms.stake, terms.revealPenalty) = (1 ether, uint96(_bound(penalty, 0, 1 ether)));
        terms.minParticipants = 3;
        _newJob(terms);
        _open(4);
        _commitAll(4);
        _reveal(1);
        _reveal(3);
        _skip(REVEAL_WINDOW);
        _assertPhase(Phase.Starved);

        _expectEvent();
        emit ITrainingLedger.PenaltyTaken(job, 0, _participant(0), terms.revealPenalty);
        _expectEvent();
        emit ITrainingLedger.JobEnded(job, Outcome.Withdrawn);
        _close();

        vm.assertEq(_credit(1), terms.revealPenalty);
        vm.assertEq(_credit(3), terms.revealPenalty);
        vm.assertEq(ledger.creditOf(job, sponsor), 27 ether);
        vm.assertEq(_state().forfeits, 0);
    }

    function test_with_nobody_revealed_penalties_go_to_those_seated() public {
        _open(3);
        _commitAll(2);
        _skip(COMMIT_WINDOW + REVEAL_WINDOW);
        _assertPhase(Phase.Starved);
        _close();
        for (uint256 i; i < 3; i++) vm.assertEq(_credit(i), uint256(0.8 ether) / 3);
        vm.assertEq(ledger.creditOf(job, sponsor), 27 ether + 0.8 ether % 3, "what cannot be divided");
    }

    function test_with_nobody_seated_penalties_go_to_the_sponsor() public {
        JobTerms memory terms = _terms();
        terms.revealPenalty = terms.stake;
        _newJob(terms);
        _openAndCommit(2);
        _skip(REVEAL_WINDOW);

        _expectEvent();
        emit ITrainingLedger.PenaltyTaken(job, 0, _participant(0), 1 ether);
        _expectEvent();
        emit ITrainingLedger.Left(job, _participant(0), 0, Departure.Exhausted, 0);
        _close();

        vm.assertEq(_state().seats, 0);
        vm.assertEq(ledger.creditOf(job, sponsor), 29 ether);
    }

    function test_whoever_missed_for_the_last_time_loses_its_seat_not_its_stake() public {
        JobTerms memory terms = _terms();
        terms.missLimit = 1;
        _newJob(terms);
        _starve();
        _close();
        vm.assertEq(_state().seats, 1);
        vm.assertEq(_credit(1), 1 ether);
        vm.assertEq(_credit(2), 1 ether);
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
        emit ITrainingLedger.DisclosureDue(job, Outcome.Withdrawn, uint40(block.timestamp + SETTLE_WINDOW));
        _close();
        _assertPhase(Phase.Disclosing);
        vm.assertEq(_state().escrow, 18 ether, "the escrow stays");
        vm.assertEq(ledger.creditOf(job, sponsor), 0);

        _expectEvent();
        emit ITrainingLedger.JobEnded(job, Outcome.Withdrawn);
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
        Phase phase = Phase(which % 8);
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
