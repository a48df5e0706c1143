// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {
    Departure, ITrainingLedger, JobId, JobState, JobTerms, Outcome, Phase, Round, Stage
} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

contract SettleTest is BaseTest {
    /* WHAT IT DOES */

    function test_settle(uint96 reward, uint32 first, uint32 second) public {
        JobTerms memory terms = _terms();
        terms.reward = uint96(_bound(reward, 0, type(uint96).max / 3));
        _newJob(terms);
        _openToReveal(3);
        uint256 total = uint256(first) + second;
        vm.assume(total != 0);
        uint256 mine = uint256(terms.reward) * first / total;
        uint256 theirs = uint256(terms.reward) * second / total;

        _expectEvent();
        emit ITrainingLedger.Settled(
            job, 0, _coordinator(0), MODEL, ROOT, REPORT, 5, _scores(first, second), terms.reward
        );
        _expectEvent();
        emit ITrainingLedger.RoundOpened(
            job, 1, 0, uint32(START + COMMIT_WINDOW), uint32(START + COMMIT_WINDOW + REVEAL_WINDOW)
        );
        vm.prank(_coordinator(0));
        ledger.settle(job, 0, MODEL, ROOT, REPORT, 7, 5, _scores(first, second));

        vm.assertEq(_credit(0), mine, "first");
        vm.assertEq(_credit(1), 0, "who is not accepted is not paid");
        vm.assertEq(_credit(2), theirs, "second");
        JobState memory state = _state();
        vm.assertEq(state.escrow, 3 * uint256(terms.reward) - mine - theirs, "what is paid comes out of the escrow");
        vm.assertEq(state.modelDigest, MODEL, "model");
        vm.assertEq(state.modelRoot, ROOT, "root");
        Round memory expected;
        (expected.number, expected.stage, expected.seated, expected.least) = (1, Stage.Open, 3, 2);
        expected.commitEnd = uint32(START + COMMIT_WINDOW);
        expected.revealEnd = expected.commitEnd + REVEAL_WINDOW;
        vm.assertEq(abi.encode(_round()), abi.encode(expected), "round");
    }

    /// forge-config: default.fuzz.runs = 24
    function test_shares_are_in_proportion(uint256 seed, uint256 count, uint64 accepted) public {
        count = _bound(count, 2, 16);
        accepted &= _seats(count);
        JobTerms memory terms = _terms();
        terms.maxParticipants = 16;
        _newJob(terms);
        _openToReveal(count);
        uint32[] memory scores = new uint32[](_ones(accepted));
        uint256 total;
        for (uint256 i; i < scores.length; i++) {
            scores[i] = uint32(uint256(keccak256(abi.encode(seed, i))) >> (seed % 224));
            total += scores[i];
        }
        _settle(accepted, scores);

        uint256 paid;
        uint256 k;
        for (uint256 seat; seat < count; seat++) {
            uint256 expected;
            if (accepted >> seat & 1 != 0 && total != 0) expected = 9 ether * uint256(scores[k]) / total;
            if (accepted >> seat & 1 != 0) k++;
            vm.assertEq(_credit(seat), expected, "share");
            paid += expected;
        }
        vm.assertEq(_state().escrow, 27 ether - paid, "escrow");
        vm.assertTrue(total == 0 || 9 ether - paid < scores.length, "less than one wei each");
    }

    /// forge-config: default.fuzz.runs = 4
    function test_sixty_four_with_the_highest_scores_and_all_the_wei_there_are(uint32 score) public {
        JobTerms memory terms = _terms();
        (terms.rounds, terms.maxParticipants, terms.reward) = (1, 64, type(uint96).max);
        (terms.stake, terms.revealPenalty) = (0, 0);
        _newJob(terms);
        _openToReveal(64);
        uint32[] memory scores = new uint32[](64);
        for (uint256 i; i < 64; i++) scores[i] = type(uint32).max;
        // One that differs must not be able to upset the sum.
        scores[63] = score;
        uint256 total = 63 * uint256(type(uint32).max) + score;
        _settle(type(uint64).max, scores);
        vm.assertEq(_credit(0), uint256(type(uint96).max) * type(uint32).max / total);
        vm.assertEq(_credit(63), uint256(type(uint96).max) * score / total);
    }

    function test_one_may_have_everything() public {
        _openToReveal(2);
        _settle(3, _scores(0, type(uint32).max));
        vm.assertEq(_credit(0), 0);
        vm.assertEq(_credit(1), 9 ether);
    }

    function test_zero_scores_leave_the_reward_in_escrow(bool accept) public {
        _openToReveal(2);
        if (accept) _settle(3, _scores(0, 0));
        else _settle(0, new uint32[](0));
        vm.assertEq(_state().escrow, 27 ether);
        vm.assertEq(_round().number, 1);
        _playRound(2);
        _playRound(2);
        vm.assertEq(ledger.creditOf(job, sponsor), 9 ether, "the sponsor gets back what no round has spent");
    }

    function test_penalties_of_the_round_are_in_its_pot() public {
        _openAndCommit(3);
        _reveal(0);
        _reveal(1);
        _skip(REVEAL_WINDOW);

        _expectEvent();
        emit ITrainingLedger.PenaltyTaken(job, 0, _participant(2), 0.4 ether);
        _expectEvent();
        emit ITrainingLedger.Settled(job, 0, _coordinator(0), MODEL, ROOT, REPORT, 1, _score(1), 9.4 ether);
        vm.prank(_coordinator(0));
        ledger.settle(job, 0, MODEL, ROOT, REPORT, 3, 1, _score(1));

        vm.assertEq(_credit(0), 9.4 ether);
        vm.assertEq(_member(2).stake, 0.6 ether);
        vm.assertEq(_state().escrow, 18 ether);
    }

    function test_penalties_nobody_scored_for_go_to_those_who_revealed_at_once(bool accept) public {
        _openAndCommit(3);
        _reveal(0);
        _reveal(1);
        _skip(REVEAL_WINDOW);
        _expectEvent();
        emit ITrainingLedger.Settled(
            job, 0, _coordinator(0), MODEL, ROOT, REPORT, accept ? 3 : 0, new uint32[](accept ? 2 : 0), 9.4 ether
        );
        _expectEvent();
        emit ITrainingLedger.Shared(job, 3, 0.2 ether);
        _settle(accept ? 3 : 0, new uint32[](accept ? 2 : 0));
        vm.assertEq(_credit(0), 0.2 ether);
        vm.assertEq(_credit(1), 0.2 ether);
        vm.assertEq(_state().escrow, 27 ether);
    }

    function test_penalties_are_taken_before_misses_are_counted() public {
        JobTerms memory terms = _terms();
        (terms.missLimit, terms.revealPenalty) = (1, 1 ether);
        _newJob(terms);
        _open(4);
        for (uint256 i = 1; i < 4; i++) _commit(i);
        _skip(COMMIT_WINDOW);
        _reveal(1);
        _reveal(2);
        _skip(REVEAL_WINDOW);
        _expectEvent();
        emit ITrainingLedger.PenaltyTaken(job, 0, _participant(3), 1 ether);
        _expectEvent();
        emit ITrainingLedger.Left(job, _participant(3), 3, Departure.Exhausted, 0);
        _expectEvent();
        emit ITrainingLedger.Left(job, _participant(0), 0, Departure.Missing, 1 ether);
        _settle(6, _scores(1, 1));
    }

    function test_whoever_cannot_pay_another_penalty_loses_its_seat() public {
        _open(3);
        for (uint256 i; i < 2; i++) {
            _commitAll(3);
            _reveal(0);
            _reveal(1);
            _skip(REVEAL_WINDOW);
            if (i == 1) {
                _expectEvent();
                emit ITrainingLedger.Left(job, _participant(2), 2, Departure.Exhausted, 0.2 ether);
                vm.prank(_coordinator(0));
                ledger.settle(job, 1, MODEL, ROOT, REPORT, 3, 3, _scores(1, 1));
            } else {
                _settleAll(2);
            }
        }
        vm.assertEq(_credit(2), 0.2 ether);
        vm.assertEq(_member(2).seatPlusOne, 0);
        vm.assertEq(_round().seated, 2);
        vm.assertEq(_state().seats, 3);
    }

    function test_a_stake_that_still_covers_a_penalty_keeps_its_seat() public {
        JobTerms memory terms = _terms();
        terms.revealPenalty = 0.5 ether;
        _newJob(terms);
        _openAndCommit(3);
        _reveal(0);
        _reveal(1);
        _skip(REVEAL_WINDOW);
        _settleAll(2);
        vm.assertEq(_member(2).stake, 0.5 ether);
        vm.assertEq(_member(2).seatPlusOne, 3);
    }

    function test_whoever_misses_too_often_in_a_row_loses_its_seat() public {
        _open(3);
        _missRound();
        vm.assertEq(_member(2).misses, 1);
        _commitAll(2);
        _skip(COMMIT_WINDOW);
        _revealAll(2);

        _expectEvent();
        emit ITrainingLedger.Left(job, _participant(2), 2, Departure.Missing, 1 ether);
        vm.prank(_coordinator(0));
        ledger.settle(job, 1, MODEL, ROOT, REPORT, 3, 3, _scores(1, 1));

        vm.assertEq(_credit(2), 1 ether);
        vm.assertEq(ledger.participantAt(job, 2), address(0));
        vm.assertEq(_round().seated, 2);
    }

    function test_who_commits_in_between_has_missed_nothing() public {
        JobTerms memory terms = _terms();
        terms.rounds = 9;
        _newJob(terms);
        _open(3);
        for (uint256 i; i < 3; i++) {
            _missRound();
            vm.assertEq(_member(2).misses, 1);
            _playRound(3);
            vm.assertEq(_member(2).misses, 0);
        }
        vm.assertEq(_member(2).seatPlusOne, 3);
    }

    function test_whoever_came_too_late_to_commit_has_missed_nothing() public {
        JobTerms memory terms = _terms();
        terms.missLimit = 1;
        _newJob(terms);
        _openToReveal(2);
        _join(2);
        _settleAll(2);
        vm.assertEq(_member(2).seatPlusOne, 3);
        vm.assertEq(_member(2).misses, 0);
        _commitAll(2);
        _skip(COMMIT_WINDOW);
        _revealAll(2);
        _settleAll(2);
        vm.assertEq(_member(2).seatPlusOne, 0, "now it has");
    }

    function test_the_last_round_ends_the_job() public {
        _open(2);
        _playRound(2);
        _playRound(2);
        _commitAll(2);
        _revealAll(2);
        _expectEvent();
        emit ITrainingLedger.JobEnded(job, Outcome.Completed, 0);
        vm.prank(_coordinator(0));
        ledger.settle(job, 2, MODEL, ROOT, REPORT, 3, 3, _scores(1, 1));

        _assertPhase(Phase.Over);
        vm.assertEq(_round().number, 3);
        vm.assertEq(_state().escrow, 0);
        vm.assertEq(ledger.creditOf(job, sponsor), 0);
        vm.assertEq(_credit(0), 13.5 ether);
    }

    function test_what_rounding_leaves_goes_to_the_sponsor_in_the_end() public {
        JobTerms memory terms = _terms();
        (terms.rounds, terms.reward) = (1, 11);
        _newJob(terms);
        _openToReveal(3);
        _settleAll(3);
        for (uint256 i; i < 3; i++) vm.assertEq(_credit(i), 3);
        vm.assertEq(ledger.creditOf(job, sponsor), 2);
    }

    function test_the_next_round_waits_when_too_few_are_seated() public {
        JobTerms memory terms = _terms();
        terms.revealPenalty = terms.stake;
        _newJob(terms);
        _openAndCommit(2);
        _reveal(0);
        _skip(REVEAL_WINDOW);
        _settle(1, _score(1));
        _assertPhase(Phase.Waiting);
        Round memory expected;
        (expected.number, expected.seated, expected.least) = (1, 1, 2);
        vm.assertEq(abi.encode(_round()), abi.encode(expected));
        vm.assertEq(_credit(0), 10 ether);
    }

    function test_a_settled_round_was_not_attempted_before() public {
        _starve();
        ledger.restartRound(job);
        vm.assertEq(_round().attempt, 1);
        _playRound(3);
        vm.assertEq(_round().attempt, 0);
    }

    function test_until_it_is_replaced_a_late_coordinator_may_still_settle(uint24 late) public {
        _openToReveal(2);
        _skip(SETTLE_WINDOW + uint256(late));
        _settleAll(2);
        vm.assertEq(_round().number, 1);
    }

    function test_after_the_last_round_of_a_withheld_job_its_key_is_due() public {
        _newJob(_withheld());
        _openToReveal(3);
        _skip(7);
        _expectEvent();
        emit ITrainingLedger.DisclosureDue(job, Outcome.Completed, uint32(block.timestamp + SETTLE_WINDOW));
        _settleAll(2);
        _assertPhase(Phase.Disclosing);
        vm.assertEq(_round().number, 1);
        vm.assertEq(_round().revealed, 7, "the heirs of a forfeited bond");
        vm.assertEq(_round().committed, 0, "nobody is held back");
        vm.assertEq(_round().seated, 3);
    }

    function test_a_key_that_is_known_already_is_not_waited_for() public {
        _newJob(_withheld());
        _openToReveal(3);
        _disclose();
        _expectEvent();
        emit ITrainingLedger.JobEnded(job, Outcome.Completed, 0);
        _settleAll(3);
        _assertPhase(Phase.Over);
    }

    /* MASKED */

    function test_a_masked_round_is_paid_as_an_open_one() public {
        _openToUnmask(3);
        _unmaskAll(3);
        _settleAll(3);
        for (uint256 i; i < 3; i++) vm.assertEq(_credit(i), 3 ether);
        vm.assertEq(_round().number, 1);
    }

    function test_who_is_counted_and_does_not_unmask_pays_the_others() public {
        _openToUnmask(3);
        _unmask(0);
        _unmask(1);
        _skip(REVEAL_WINDOW);
        _settle(3, _scores(1, 1));
        vm.assertEq(_member(2).stake, 0.6 ether);
        vm.assertEq(_credit(0), 4.7 ether);
        vm.assertEq(_member(2).misses, 0);
    }

    /// @dev Too few have unmasked: the round is skipped, and the penalties are theirs who have.
    function test_a_masked_round_that_cannot_be_unmasked_is_skipped() public {
        _openToUnmask(3);
        _unmask(1);
        _skip(REVEAL_WINDOW);
        _settle(0, new uint32[](0));
        vm.assertEq(_credit(1), 0.8 ether);
        vm.assertEq(_state().escrow, 27 ether);
        vm.assertEq(_round().number, 1, "it is not counted again");
    }

    function test_nobody_is_paid_who_is_not_counted() public {
        _newJob(_masked());
        _withMost(4, 3);
        _playMasked(3);
        _commitMaskedAll(4);
        _count(7);
        _unmaskAll(3);
        Round memory current = _round();
        _expectError(ITrainingLedger.NotRevealed.selector, 8);
        vm.prank(_coordinator(0));
        ledger.settle(job, 1, MODEL, ROOT, REPORT, current.revealed, 15, _equalScores(4));
    }

    /// @dev Whoever is not counted leaves while the others unmask, and somebody takes its seat.
    function test_who_takes_an_uncounted_seat_is_in_the_next_attempt_and_not_in_this() public {
        _withMost(4, 3);
        _playMasked(3);
        _commitMaskedAll(4);
        _count(7);
        _unmask(0);
        _leave(3);
        _join(4);
        vm.assertEq(_member(4).seatPlusOne, 4);
        _expectError(ITrainingLedger.NotCommitted.selector, _participant(4));
        vm.prank(_participant(4));
        ledger.unmask(job, 1, 0, "in another's seat");
        _unmask(1);
        _unmask(2);
        _assertPhase(Phase.Settling);
        _settleAll(3);

        for (uint256 i; i < 3; i++) vm.assertEq(_credit(i), 6 ether);
        vm.assertEq(_credit(3), 1 ether, "its stake");
        vm.assertEq(_credit(4), 0);
        vm.assertEq(_member(4).stake, 1 ether);
        vm.assertEq(_member(4).misses, 0, "it could not have committed");
        vm.assertEq(_state().cohort, 15);
        _commitMasked(4);
        _skip(COMMIT_WINDOW);
        ledger.restartRound(job);
        vm.assertEq(_member(4).misses, 0);
        _skip(COMMIT_WINDOW);
        ledger.restartRound(job);
        vm.assertEq(_member(4).misses, 1, "it is excused once");
    }

    function test_a_masked_round_that_is_overdue_is_settled_while_nobody_has_replaced_the_coordinator() public {
        _openToUnmask(3);
        _unmaskAll(3);
        _skip(SETTLE_WINDOW);
        _assertPhase(Phase.Overdue);
        _settleAll(3);
    }

    function test_a_masked_round_that_is_not_counted_is_not_settled(bool overdue) public {
        _openToCount(3);
        if (overdue) _skip(SETTLE_WINDOW);
        _expectWrongPhase(overdue ? Phase.Overdue : Phase.Counting);
        vm.prank(_coordinator(0));
        ledger.settle(job, 0, MODEL, ROOT, REPORT, 0, 0, new uint32[](0));
    }

    /* WHAT IT REFUSES */

    function test_nothing_is_settled_when_the_key_is_overdue() public {
        _bring(Phase.Disclosing);
        _skip(SETTLE_WINDOW);
        _expectWrongPhase(Phase.Overdue);
        _settleAs(_coordinator(0), 1, 0);
    }

    function test_only_the_serving_coordinator_may(address caller, bool reserve) public {
        if (reserve) caller = _coordinator(1);
        vm.assume(caller != _coordinator(0));
        _postBond(1);
        _openToReveal(2);
        _expectError(ITrainingLedger.NotCoordinator.selector, _coordinator(0));
        _settleAs(caller, 0, 3);
    }

    function test_only_the_open_round(uint24 round) public {
        vm.assume(round != 1);
        _open(2);
        _playRound(2);
        _commitAll(2);
        _revealAll(2);
        _expectWrongRound(1, 0);
        _settleAs(_coordinator(0), round, 3);
    }

    function test_only_in_settling_and_overdue(uint8 which) public {
        Phase phase = Phase(which % 9);
        vm.assume(phase != Phase.Settling && phase != Phase.Overdue);
        _bring(phase);
        uint24 round = _round().number;
        _expectWrongPhase(phase);
        _settleAs(_coordinator(0), round, 0);
    }

    function test_not_before_the_last_second_of_revealing_is_over() public {
        _openAndCommit(3);
        _reveal(0);
        _reveal(1);
        _skip(REVEAL_WINDOW - 1);
        _expectWrongPhase(Phase.Revealing);
        _settleAs(_coordinator(0), 0, 3);
        _skip(1);
        _settleAs(_coordinator(0), 0, 3);
    }

    function test_a_zero_digest_is_refused(uint8 which) public {
        _openToReveal(2);
        which %= 3;
        _expectError(ITrainingLedger.ZeroDigest.selector);
        vm.prank(_coordinator(0));
        ledger.settle(
            job,
            0,
            which == 0 ? bytes32(0) : MODEL,
            which == 1 ? bytes32(0) : ROOT,
            which == 2 ? bytes32(0) : REPORT,
            3,
            3,
            _scores(1, 1)
        );
    }

    function test_not_without_a_reveal_that_the_caller_has_not_seen(uint64 seen, uint64 accepted) public {
        _openAndCommit(3);
        _reveal(0);
        _reveal(2);
        _skip(REVEAL_WINDOW);
        vm.assume(seen != 5);
        accepted &= seen;
        _expectError(ITrainingLedger.StaleReveals.selector, 5);
        vm.prank(_coordinator(0));
        ledger.settle(job, 0, MODEL, ROOT, REPORT, seen, accepted, _equalScores(_ones(accepted)));
    }

    function test_who_did_not_reveal_cannot_be_paid(uint64 accepted) public {
        _openAndCommit(3);
        _reveal(0);
        _reveal(2);
        _skip(REVEAL_WINDOW);
        vm.assume(accepted & ~uint64(5) != 0);
        _expectError(ITrainingLedger.NotRevealed.selector, accepted & ~uint64(5));
        vm.prank(_coordinator(0));
        ledger.settle(job, 0, MODEL, ROOT, REPORT, 5, accepted, _equalScores(2));
    }

    function test_one_score_for_each_accepted_seat(uint256 length, uint64 accepted) public {
        accepted &= 7;
        length = _bound(length, 0, 70);
        vm.assume(length != _ones(accepted));
        _openToReveal(3);
        _expectError(ITrainingLedger.BadScoreCount.selector, _ones(accepted));
        vm.prank(_coordinator(0));
        ledger.settle(job, 0, MODEL, ROOT, REPORT, 7, accepted, _equalScores(length));
    }

    function test_an_unknown_job_is_refused(JobId unknown) public {
        vm.assume(JobId.unwrap(unknown) != JobId.unwrap(job));
        _expectUnknownJob(unknown);
        ledger.settle(unknown, 0, MODEL, ROOT, REPORT, 0, 0, new uint32[](0));
    }

    /* STEPS */

    /// @dev Accepts everyone who revealed.
    function _settleAs(address caller, uint24 round, uint64 revealed) internal {
        uint32[] memory scores = _equalScores(_ones(revealed));
        vm.prank(caller);
        ledger.settle(job, round, MODEL, ROOT, REPORT, revealed, revealed, scores);
    }

    /// @dev Everyone but the third takes part.
    function _missRound() internal {
        _commitAll(2);
        _skip(COMMIT_WINDOW);
        _revealAll(2);
        _settleAll(2);
    }
}
