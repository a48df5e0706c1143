// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ITrainingLedger, JobId, JobTerms, Outcome, Phase, Round} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

contract ReplaceCoordinatorTest is BaseTest {
    /* WHAT IT DOES */

    function test_replaceCoordinator(uint96 penalty, uint256 revealed, address caller) public {
        JobTerms memory terms = _terms();
        terms.settlePenalty = uint96(_bound(penalty, 0, terms.bond));
        _newJob(terms);
        _postBond(1);
        revealed = _bound(revealed, 2, 4);
        _openToReveal(revealed);
        _skip(SETTLE_WINDOW);
        Round memory expected = _round();
        expected.revealEnd = uint32(block.timestamp);

        _expectEvent();
        emit ITrainingLedger.CoordinatorReplaced(
            job, 0, _coordinator(0), _coordinator(1), terms.settlePenalty, uint32(block.timestamp + SETTLE_WINDOW)
        );
        _expectEvent();
        emit ITrainingLedger.BondReleased(job, _coordinator(0), terms.bond - terms.settlePenalty);
        if (terms.settlePenalty / revealed != 0) {
            _expectEvent();
            emit ITrainingLedger.Shared(job, _seats(revealed), terms.settlePenalty / revealed);
        }
        vm.prank(caller);
        ledger.replaceCoordinator(job);

        vm.assertEq(_serving(), _coordinator(1));
        vm.assertEq(ledger.bondOf(job, _coordinator(0)), 0);
        vm.assertEq(ledger.bondOf(job, _coordinator(1)), 5 ether);
        vm.assertEq(ledger.creditOf(job, _coordinator(0)), terms.bond - terms.settlePenalty);
        for (uint256 i; i < revealed; i++) vm.assertEq(_credit(i), terms.settlePenalty / revealed);
        vm.assertEq(_state().escrow, 27 ether + terms.settlePenalty % revealed, "what cannot be divided");
        vm.assertEq(abi.encode(_round()), abi.encode(expected), "what was revealed stays valid");
        _assertPhase(Phase.Settling);
    }

    function test_only_those_who_revealed_share_the_penalty() public {
        _postBond(1);
        _openAndCommit(3);
        _reveal(0);
        _reveal(2);
        _skip(REVEAL_WINDOW + SETTLE_WINDOW);
        ledger.replaceCoordinator(job);
        vm.assertEq(_credit(0), 1 ether);
        vm.assertEq(_credit(1), 0);
        vm.assertEq(_credit(2), 1 ether);
    }

    function test_the_successor_settles_and_the_late_one_does_not() public {
        _postBond(1);
        _bring(Phase.Overdue);
        ledger.replaceCoordinator(job);

        _expectError(ITrainingLedger.NotCoordinator.selector, _coordinator(1));
        vm.prank(_coordinator(0));
        ledger.settle(job, 0, MODEL, ROOT, REPORT, 7, 7, _equalScores(3));

        _settleAll(3);
        vm.assertEq(_round().number, 1);
        _assertPhase(Phase.Committing);
    }

    function test_the_successor_has_a_settle_window_of_its_own() public {
        _postBond(1);
        _bring(Phase.Overdue);
        ledger.replaceCoordinator(job);
        _skip(SETTLE_WINDOW - 1);
        _assertPhase(Phase.Settling);
        _expectWrongPhase(Phase.Settling);
        ledger.replaceCoordinator(job);
        _skip(1);
        _assertPhase(Phase.Overdue);
    }

    function test_who_has_no_bond_is_passed_over() public {
        _postBond(2);
        _bring(Phase.Overdue);
        ledger.replaceCoordinator(job);
        vm.assertEq(_serving(), _coordinator(2));
    }

    function test_nobody_serves_twice() public {
        _postBond(1);
        _bring(Phase.Overdue);
        ledger.replaceCoordinator(job);
        // Again at the head of the list, but the list is walked down only.
        _postBond(0);
        _skip(SETTLE_WINDOW);
        _expectEvent();
        emit ITrainingLedger.CoordinatorReplaced(job, 0, _coordinator(1), address(0), 2 ether, 0);
        ledger.replaceCoordinator(job);
        _assertPhase(Phase.Over);
    }

    function test_without_a_bond_everyone_listed_serves_in_turn() public {
        JobTerms memory terms = _terms();
        (terms.bond, terms.settlePenalty) = (0, 0);
        _newJob(terms);
        _join(0);
        _join(1);
        _commitAll(2);
        _revealAll(2);
        for (uint256 i; i < 3; i++) {
            vm.assertEq(_serving(), _coordinator(i));
            _skip(SETTLE_WINDOW);
            ledger.replaceCoordinator(job);
        }
        _assertPhase(Phase.Over);
    }

    /// @dev They have shown their work: the round's reward is theirs, as the penalties are.
    function test_with_nobody_left_the_job_ends_and_who_revealed_is_paid() public {
        _openAndCommit(3);
        _reveal(0);
        _reveal(1);
        _skip(REVEAL_WINDOW + SETTLE_WINDOW);

        _expectEvent();
        emit ITrainingLedger.CoordinatorReplaced(job, 0, _coordinator(0), address(0), 2 ether, 0);
        _expectEvent();
        emit ITrainingLedger.BondReleased(job, _coordinator(0), 3 ether);
        _expectEvent();
        emit ITrainingLedger.PenaltyTaken(job, 0, _participant(2), 0.4 ether);
        _expectEvent();
        emit ITrainingLedger.Shared(job, 3, 5.7 ether);
        _expectEvent();
        emit ITrainingLedger.JobEnded(job, Outcome.Abandoned, 18 ether);
        ledger.replaceCoordinator(job);

        _assertPhase(Phase.Over);
        vm.assertEq(_credit(0), 5.7 ether);
        vm.assertEq(_credit(1), 5.7 ether);
        vm.assertEq(_credit(2), 0);
        vm.assertEq(_member(2).stake, 0.6 ether);
        vm.assertEq(ledger.creditOf(job, sponsor), 18 ether);
        vm.assertEq(_state().escrow, 0);
    }

    function test_what_cannot_be_divided_in_the_end_goes_to_the_sponsor() public {
        JobTerms memory terms = _terms();
        terms.settlePenalty = 2 ether + 1;
        _newJob(terms);
        _openToReveal(2);
        _skip(SETTLE_WINDOW);
        ledger.replaceCoordinator(job);
        vm.assertEq(_credit(0), 5.5 ether);
        vm.assertEq(ledger.creditOf(job, sponsor), 18 ether + 1);
    }

    function test_whoever_missed_for_the_last_time_loses_its_seat_not_its_stake() public {
        JobTerms memory terms = _terms();
        terms.missLimit = 1;
        _newJob(terms);
        _open(3);
        _commitAll(2);
        _skip(COMMIT_WINDOW);
        _revealAll(2);
        _skip(REVEAL_WINDOW + SETTLE_WINDOW);
        ledger.replaceCoordinator(job);
        vm.assertEq(_state().seats, 3);
        vm.assertEq(_credit(2), 1 ether);
    }

    /* WHO KEEPS THE KEY OF A WITHHELD VALIDATION SET */

    function test_who_does_not_disclose_loses_its_whole_bond(uint96 bond, uint256 n) public {
        n = _bound(n, 2, 4);
        JobTerms memory terms = _withheld();
        terms.bond = uint96(_bound(bond, terms.settlePenalty, type(uint96).max));
        _newJob(terms);
        _postBond(1);
        _openToReveal(n);
        _settleAll(n);
        uint256 earned = _credit(0);
        _skip(SETTLE_WINDOW);
        _assertPhase(Phase.Overdue);

        _expectEvent();
        emit ITrainingLedger.CoordinatorReplaced(
            job, 1, _coordinator(0), _coordinator(1), terms.bond, uint32(block.timestamp + SETTLE_WINDOW)
        );
        _expectEvent();
        emit ITrainingLedger.BondReleased(job, _coordinator(0), 0);
        ledger.replaceCoordinator(job);

        vm.assertEq(ledger.creditOf(job, _coordinator(0)), 0);
        for (uint256 i; i < n; i++) vm.assertEq(_credit(i), earned + terms.bond / n);
        _assertPhase(Phase.Disclosing);
        _skip(SETTLE_WINDOW - 1);
        _assertPhase(Phase.Disclosing);
        _disclose();
        _assertPhase(Phase.Over);
        vm.prank(_coordinator(1));
        ledger.releaseBond(job);
        vm.assertEq(ledger.creditOf(job, _coordinator(1)), terms.bond);
    }

    function test_with_nobody_left_to_disclose_the_job_is_abandoned() public {
        _bring(Phase.Disclosing);
        _skip(SETTLE_WINDOW);
        _expectEvent();
        emit ITrainingLedger.CoordinatorReplaced(job, 1, _coordinator(0), address(0), 5 ether, 0);
        _expectEvent();
        emit ITrainingLedger.BondReleased(job, _coordinator(0), 0);
        _expectEvent();
        emit ITrainingLedger.Shared(job, 7, uint256(5 ether) / 3);
        _expectEvent();
        emit ITrainingLedger.JobEnded(job, Outcome.Abandoned, uint256(5 ether) % 3);
        ledger.replaceCoordinator(job);
        _assertPhase(Phase.Over);
        vm.assertEq(_member(0).misses, 0, "no round was missed");
    }

    function test_without_heirs_the_bond_of_who_kept_the_key_goes_to_who_is_seated_or_the_sponsor(bool someone) public {
        JobTerms memory terms = _terms();
        terms.validationLock = LOCK;
        _newJob(terms);
        _open(2);
        _playRound(2);
        _skip(COMMIT_WINDOW);
        _leave(0);
        ledger.restartRound(job);
        _close();
        if (!someone) _leave(1);
        uint256 had = _credit(1);
        _skip(SETTLE_WINDOW);
        ledger.replaceCoordinator(job);
        vm.assertEq(_credit(1), someone ? had + 5 ether : had);
        vm.assertEq(ledger.creditOf(job, sponsor), someone ? 18 ether : 23 ether);
    }

    function test_who_does_not_settle_and_leaves_nobody_to_disclose_loses_its_whole_bond(bool disclosed) public {
        JobTerms memory terms = _terms();
        terms.validationLock = LOCK;
        _newJob(terms);
        _open(2);
        _playRound(2);
        _commitAll(2);
        _revealAll(2);
        _skip(SETTLE_WINDOW);
        if (disclosed) _disclose();
        ledger.replaceCoordinator(job);
        vm.assertEq(ledger.creditOf(job, _coordinator(0)), disclosed ? 3 ether : 0);
        _assertPhase(Phase.Over);
    }

    function test_who_does_not_settle_and_has_a_successor_loses_the_penalty_only() public {
        JobTerms memory terms = _terms();
        terms.validationLock = LOCK;
        _newJob(terms);
        _postBond(1);
        _open(2);
        _playRound(2);
        _commitAll(2);
        _revealAll(2);
        _skip(SETTLE_WINDOW);
        ledger.replaceCoordinator(job);
        vm.assertEq(ledger.creditOf(job, _coordinator(0)), 3 ether);
        _assertPhase(Phase.Settling);
    }

    /* MASKED */

    function test_a_successor_counts_where_its_predecessor_did_not() public {
        _openToCount(3);
        _postBond(1);
        _skip(SETTLE_WINDOW);
        ledger.replaceCoordinator(job);
        vm.assertEq(_credit(0), uint256(2 ether) / 3, "the penalty is theirs who committed");
        _assertPhase(Phase.Counting);
        vm.assertEq(_round().revealEnd, block.timestamp, "it has a window of its own");
        _skip(SETTLE_WINDOW - 1);
        _count(7);
        _unmaskAll(3);
        _settleAll(3);
    }

    function test_a_successor_takes_over_the_count() public {
        _openToUnmask(3);
        _postBond(1);
        _unmask(0);
        _unmask(1);
        _skip(REVEAL_WINDOW + SETTLE_WINDOW);
        ledger.replaceCoordinator(job);
        vm.assertEq(_round().committed, 7);
        _assertPhase(Phase.Settling);
        _expectWrongPhase(Phase.Settling);
        vm.prank(_coordinator(1));
        ledger.count(job, 0, 0, 3);
        _settle(3, _scores(1, 1));
    }

    /// @dev Nobody could unmask, so nobody owes a penalty; whoever came late has done nothing and gets nothing.
    function test_with_nobody_left_to_count_those_who_committed_divide_the_reward() public {
        JobTerms memory terms = _masked();
        terms.maxParticipants = 4;
        _newJob(terms);
        _open(3);
        _commitMaskedAll(3);
        _join(3);
        _skip(SETTLE_WINDOW);
        ledger.replaceCoordinator(job);
        _assertPhase(Phase.Over);
        for (uint256 i; i < 3; i++) {
            vm.assertEq(_credit(i), uint256(11 ether) / 3);
            vm.assertEq(_member(i).stake, 1 ether);
        }
        vm.assertEq(_credit(3) + _member(3).stake, 1 ether);
    }

    function test_with_nobody_left_to_settle_those_who_unmasked_divide_the_reward() public {
        _openToUnmask(3);
        _unmask(0);
        _skip(REVEAL_WINDOW + SETTLE_WINDOW);
        ledger.replaceCoordinator(job);
        _assertPhase(Phase.Over);
        vm.assertEq(_credit(0), 9 ether + 2 ether + 0.8 ether);
    }

    /* WHAT IT REFUSES */

    function test_only_in_overdue(uint8 which) public {
        Phase phase = Phase(which % 9);
        vm.assume(phase != Phase.Overdue);
        _bring(phase);
        _expectWrongPhase(phase);
        ledger.replaceCoordinator(job);
    }

    function test_an_unknown_job_is_refused(JobId unknown) public {
        vm.assume(JobId.unwrap(unknown) != JobId.unwrap(job));
        _expectUnknownJob(unknown);
        ledger.replaceCoordinator(unknown);
    }
}
