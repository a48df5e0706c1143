// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Departure, ITrainingLedger, JobId, JobTerms, Phase} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

/// @notice Games that somebody could play for money, delay or somebody else's loss, each as it is played, and what comes of
/// it. Those that stay, with their price, are at the end; ARCHITECTURE.md tells of them.
contract GamesTest is BaseTest {
    /* WORK FOR NOTHING */

    /// @dev The sponsor sits in seat 2, commits and stays silent, so that too few reveal; all others have shown their work.
    function test_a_silent_seat_takes_nobodys_pay() public {
        JobTerms memory terms = _terms();
        terms.minParticipants = 3;
        _newJob(terms);
        _openAndCommit(3);
        _reveal(0);
        _reveal(1);
        _skip(REVEAL_WINDOW);

        _assertPhase(Phase.Settling);
        _expectWrongPhase(Phase.Settling);
        _close();
        _expectWrongPhase(Phase.Settling);
        ledger.restartRound(job);
        _settleAll(2);
        vm.assertEq(_credit(0), 4.7 ether, "half of the reward and of the penalty");
        vm.assertEq(_credit(1), 4.7 ether);
        vm.assertEq(_member(2).stake, 0.6 ether);
    }

    /// @dev The same, and its only coordinator does not settle. The penalty for that is 0.
    function test_an_only_coordinator_that_is_late_saves_the_sponsor_nothing(bool alone) public {
        JobTerms memory terms = _terms();
        terms.settlePenalty = 0;
        _newJob(terms);
        _openAndCommit(3);
        _reveal(0);
        if (!alone) _reveal(1);
        _skip(REVEAL_WINDOW + SETTLE_WINDOW);
        vm.prank(sponsor);
        ledger.replaceCoordinator(job);

        _assertPhase(Phase.Over);
        if (alone) vm.assertEq(_credit(0), 9.8 ether, "the reward and two penalties");
        else vm.assertEq(_credit(0) + _credit(1), 9.4 ether, "the reward and a penalty");
        vm.assertEq(ledger.creditOf(job, sponsor), 18 ether, "the rounds that were not played");
    }

    /// @dev Nothing is in hand between rounds that could go to whoever fills the seats before the job is closed.
    function test_nothing_is_left_to_inherit_for_who_fills_the_seats_and_closes() public {
        JobTerms memory terms = _terms();
        terms.maxParticipants = 8;
        _newJob(terms);
        _openAndCommit(3);
        _reveal(0);
        _skip(REVEAL_WINDOW);
        // The coordinator is the sponsor's and accepts nobody.
        _settle(0, new uint32[](0));
        vm.assertEq(_credit(0), 0.8 ether, "penalties are paid with the settlement");
        _skip(COMMIT_WINDOW);
        for (uint256 i = 3; i < 8; i++) _join(i);
        _close();
        for (uint256 i = 3; i < 8; i++) vm.assertEq(_credit(i), 0);
        vm.assertEq(ledger.creditOf(job, sponsor), 27 ether);
    }

    /// @dev A chain that stands still through the reveal window.
    function test_penalties_that_everybody_owes_are_nobodys_profit(bool closed) public {
        _openAndCommit(3);
        _skip(REVEAL_WINDOW);
        if (closed) _close();
        else ledger.restartRound(job);
        for (uint256 i; i < 3; i++) vm.assertEq(_member(i).stake + _credit(i), 1 ether);
        vm.assertEq(_state().escrow + ledger.creditOf(job, sponsor), 27 ether);
    }

    /* A ROUND THAT DOES NOT COME TO AN END */

    /// @dev Two seats that are taken while a round is starved, each time as late as can be.
    function test_who_joins_a_starved_round_cannot_starve_it_for_ever() public {
        JobTerms memory terms = _terms();
        terms.minParticipants = 3;
        _newJob(terms);
        _open(3);
        _leave(1);
        _leave(2);
        _skip(COMMIT_WINDOW);
        _join(3);
        _join(4);
        uint256 attempts;
        for (; _state().seats != 1; attempts++) {
            vm.assertLe(attempts, 4, "they stay");
            if (_phase() == Phase.Committing) _commit(0);
            _skip(COMMIT_WINDOW);
            _assertPhase(Phase.Starved);
            ledger.restartRound(job);
        }
        _assertPhase(Phase.Waiting);
        vm.assertEq(attempts, 3, "an excuse and two misses");
    }

    function test_leaving_and_joining_again_wipes_out_no_miss() public {
        JobTerms memory terms = _terms();
        terms.rounds = 9;
        _newJob(terms);
        _open(3);
        for (uint256 i; i < 2; i++) {
            vm.assertEq(_member(2).seatPlusOne, 3);
            _commitAll(2);
            _skip(COMMIT_WINDOW);
            _revealAll(2);
            // In one transaction, before each settlement.
            _leave(2);
            _join(2);
            _settleAll(2);
        }
        vm.assertEq(_member(2).seatPlusOne, 0);
        // Nor does it after it was put out: there is nothing to spare until it commits.
        _join(2);
        _commitAll(2);
        _skip(COMMIT_WINDOW);
        _revealAll(2);
        _settleAll(2);
        vm.assertEq(_member(2).seatPlusOne, 0);
    }

    /// @dev Two seats open a round and leave; those who train meanwhile lose nothing, and there is time to fill the seats.
    function test_who_opens_a_round_and_leaves_does_not_starve_it_at_once() public {
        _open(2);
        _join(2);
        _leave(0);
        _leave(1);
        _commit(2);
        _assertPhase(Phase.Committing);
        _skip(COMMIT_WINDOW - 1);
        _join(3);
        _commit(3);
        _assertPhase(Phase.Revealing);
        vm.assertEq(_round().attempt, 0);
    }

    function test_an_attempt_takes_its_time(uint8 way) public {
        _open(3);
        if (way % 3 == 0) for (uint256 i; i < 3; i++) _leave(i);
        else _commitAll(way % 3 == 1 ? 3 : 1);
        // All have committed and nobody reveals; or too few have.
        uint32 least = way % 3 == 1 ? REVEAL_WINDOW : COMMIT_WINDOW;
        _skip(least - 1);
        vm.assertTrue(_phase() != Phase.Starved);
        _skip(1);
        _assertPhase(Phase.Starved);
    }

    function test_a_seat_is_lost_only_after_that_many_whole_windows_to_commit() public {
        JobTerms memory terms = _terms();
        terms.missLimit = 3;
        _newJob(terms);
        _open(3);
        while (_member(2).seatPlusOne != 0) {
            _skip(COMMIT_WINDOW);
            ledger.restartRound(job);
        }
        vm.assertEq(block.timestamp, START + 3 * COMMIT_WINDOW, "in round 0, but not at once");
    }

    /* SOMETHING ELSE THAN WAS MEANT */

    /// @dev After a re-organisation the number is another sponsor's job, in which a miss costs the whole stake.
    function test_who_joins_gets_the_terms_that_it_saw() public {
        bytes32 seen = termsHash;
        JobTerms memory terms = _terms();
        terms.revealPenalty = terms.stake;
        _newJob(terms);
        vm.deal(_participant(0), 1 ether);
        _expectError(ITrainingLedger.WrongTerms.selector, uint256(termsHash));
        vm.prank(_participant(0));
        ledger.join{value: 1 ether}(job, seen, 5, _noProof(), NO_KEY);
        vm.deal(_coordinator(0), 5 ether);
        _expectError(ITrainingLedger.WrongTerms.selector, uint256(termsHash));
        vm.prank(_coordinator(0));
        ledger.postBond{value: 5 ether}(job, seen);
    }

    /// @dev Sent in one attempt, mined in the next, whose model it cannot be for and in which nobody will reveal it.
    function test_a_commitment_that_comes_late_commits_to_nothing() public {
        _starve();
        ledger.restartRound(job);
        bytes30 late = _commitment(1, 0);
        _expectWrongRound(0, 1);
        vm.prank(_participant(1));
        ledger.commit(job, 0, 0, late);
        _commitAll(3);
        _revealAll(3);
        vm.assertEq(_member(1).stake, 1 ether);
    }

    /// @dev Whoever reads `Committed` and whoever reads the storage see the same.
    function test_every_byte_of_a_commitment_binds(bytes30 commitment, bytes2 rest) public {
        vm.assume(rest != 0);
        _open(2);
        bytes memory call = abi.encodeCall(ITrainingLedger.commit, (job, 0, 0, commitment));
        (call[call.length - 2], call[call.length - 1]) = (rest[0], rest[1]);
        vm.prank(_participant(0));
        (bool done,) = address(ledger).call(call);
        vm.assertFalse(done, "there are no bytes that are anybody's");
    }

    /* DEADLINES */

    /// @dev An idle seat's `leave` closes committing a day before it was announced.
    function test_no_deadline_comes_sooner_because_somebody_leaves() public {
        _open(3);
        uint32 announced = _round().revealEnd;
        _commitAll(2);
        _leave(2);
        _assertPhase(Phase.Revealing);
        vm.assertEq(_round().revealEnd, announced);
        vm.warp(announced - 1);
        _revealAll(2);
        _assertPhase(Phase.Settling);
    }

    function test_who_joins_in_the_last_second_of_committing_has_missed_nothing() public {
        JobTerms memory terms = _terms();
        terms.missLimit = 1;
        _newJob(terms);
        _open(3);
        _commitAll(2);
        _skip(COMMIT_WINDOW - 1);
        _join(3);
        _skip(1);
        _revealAll(2);
        _settleAll(2);
        vm.assertEq(_member(2).seatPlusOne, 0, "it was there all the time");
        vm.assertEq(_member(3).seatPlusOne, 4);
        vm.assertEq(_member(3).misses, 0);
        vm.assertFalse(_member(3).excused, "once");
    }

    /// @dev A reveal window that nobody can meet; a settle window that locks stakes for a century.
    function test_windows_are_no_traps() public {
        JobTerms memory terms = _terms();
        terms.revealWindow = LEAST_WINDOW - 1;
        _refused(terms);
        terms = _terms();
        terms.settleWindow = LEAST_WINDOW - 1;
        _refused(terms);
        terms.settleWindow = type(uint32).max;
        _refused(terms);
    }

    /* ADMISSION */

    /// @dev Where anyone may join, whoever was put out is back with another address in the same transaction, and honest ones
    /// find the job full. Where there is a list, its seats are for those on it.
    function test_evicted_seats_are_not_refilled_by_who_is_not_on_the_list() public {
        JobTerms memory terms = _terms();
        terms.admission = keccak256(abi.encode(keccak256(abi.encode(_participant(0)))));
        terms.minParticipants = 1;
        _newJob(terms);
        _postBond(0);
        vm.deal(_participant(7), 1 ether);
        _expectError(ITrainingLedger.NotAdmitted.selector, _participant(7));
        vm.prank(_participant(7));
        ledger.join{value: 1 ether}(job, termsHash, 5, _noProof(), NO_KEY);
        _join(0);
        _playRound(1);
    }

    /* MASKED ROUNDS */

    /// @dev Letters that nobody can fetch cost no penalty, and with a third of the seats they void every attempt; but whoever
    /// commits to them loses its seat as if it had been idle.
    function test_a_third_of_the_seats_cannot_void_attempts_for_ever() public {
        _withMost(6, 3);
        _playMasked(3);
        uint256 attempts;
        for (; _state().seats != 7; attempts++) {
            vm.assertLe(attempts, 3, "they stay");
            _commitMaskedAll(6);
            _count(7);
            _assertPhase(Phase.Starved);
            ledger.restartRound(job);
        }
        vm.assertEq(attempts, 2, "two misses");
        vm.assertEq(_round().least, 3);
        _playMasked(3);
    }

    /// @dev A count of nobody is none: who has missed the deadline neither makes the attempt void nor takes its bond home.
    function test_a_coordinator_whom_commitments_wait_for_does_not_leave_for_nothing() public {
        _openToCount(3);
        _postBond(1);
        _skip(SETTLE_WINDOW);
        _expectError(ITrainingLedger.TooFewCounted.selector, 3);
        vm.prank(_coordinator(0));
        ledger.count(job, 0, 0, 0);
        _expectError(ITrainingLedger.BondInUse.selector, uint256(Phase.Overdue));
        vm.prank(_coordinator(0));
        ledger.releaseBond(job);
        ledger.replaceCoordinator(job);
        vm.assertEq(ledger.creditOf(job, _coordinator(0)), 3 ether);
        // Their work is not lost: its successor counts it.
        _count(7);
        _unmaskAll(3);
        _settleAll(3);
        for (uint256 i; i < 3; i++) vm.assertEq(_credit(i), 3 ether + uint256(2 ether) / 3);
    }

    /// @dev In time, it may say so of every attempt that it has to serve, and goes home once nobody is seated any more. The
    /// price: `missLimit` attempts, of which the audit tells. Nobody loses a stake.
    function test_a_coordinator_that_voids_every_attempt_in_time_leaves_when_nobody_is_seated() public {
        _openToCount(3);
        for (uint256 k; k < 2; k++) {
            if (k != 0) _commitMaskedAll(3);
            _count(0);
            _expectError(ITrainingLedger.BondInUse.selector, uint256(Phase.Starved));
            vm.prank(_coordinator(0));
            ledger.releaseBond(job);
            ledger.restartRound(job);
        }
        _assertPhase(Phase.Waiting);
        vm.prank(_coordinator(0));
        ledger.releaseBond(job);
        vm.assertEq(ledger.creditOf(job, _coordinator(0)), 5 ether);
        for (uint256 i; i < 3; i++) vm.assertEq(_credit(i), 1 ether);
    }

    /// @dev They commit to nothing and have their penalties, or the coordinator's, to divide.
    function test_who_makes_a_count_impossible_earns_nothing_by_it() public {
        _withMost(6, 3);
        _playMasked(3);
        _commitMaskedAll(6);
        _count(0);
        ledger.restartRound(job);
        for (uint256 i = 3; i < 6; i++) vm.assertEq(_credit(i), 0);
        vm.assertEq(ledger.bondOf(job, _coordinator(0)), 5 ether);
    }

    /// @dev The second set would differ from the first by one update, and so would the sums.
    function test_an_attempt_has_one_sum_whatever_becomes_of_it(uint8 way) public {
        _withMost(5, 3);
        _playMasked(3);
        _commitMaskedAll(5);
        _postBond(1);
        _count(15);
        uint8 end = way % 4;
        if (end > 0) _unmask(0);
        if (end > 1) _skip(REVEAL_WINDOW);
        if (end > 2) {
            _skip(SETTLE_WINDOW);
            ledger.replaceCoordinator(job);
        }
        Phase phase = end < 2 ? Phase.Revealing : Phase.Settling;
        address serving = _serving();
        _expectWrongPhase(phase);
        vm.prank(serving);
        ledger.count(job, 1, 0, 31);
        vm.assertEq(_round().committed, 15);
    }

    /// @dev Its own seats and one other: the sum less its own is the other's update.
    function test_nobody_is_singled_out_by_a_count() public {
        _withMost(9, 3);
        _playMasked(3);
        _commitMaskedAll(9);
        // Five of nine are too few.
        _count(31);
        _assertPhase(Phase.Starved);
        ledger.restartRound(job);
        vm.assertEq(_round().least, 6);
    }

    /// @dev Seats that were taken after the opening are in nobody's letters.
    function test_who_comes_late_makes_no_attempt_smaller_or_greater() public {
        _withMost(8, 3);
        _playMasked(3);
        for (uint256 i; i < 6; i++) _commitMasked(i);
        _leave(7);
        _join(8);
        vm.assertEq(_round().least, 6);
        vm.assertEq(_state().cohort, 127);
        _skip(COMMIT_WINDOW);
        _count(63);
        for (uint256 i; i < 6; i++) _unmask(i);
        _settleAll(6);
        vm.assertEq(_member(8).misses, 0);
        vm.assertEq(_member(6).misses, 1);
    }

    /// @dev Two transactions in every attempt, so as never to be absent when it ends.
    function test_an_idle_seat_does_not_dodge_a_masked_miss_by_leaving_and_coming_again() public {
        JobTerms memory terms = _masked();
        terms.rounds = 9;
        _newJob(terms);
        _open(3);
        _join(3);
        _playMasked(3);
        for (uint256 i; i < 2; i++) {
            vm.assertEq(_member(3).seatPlusOne, 4);
            _commitMaskedAll(3);
            _leave(3);
            _join(3);
            vm.assertFalse(_member(3).excused, "it left this attempt");
            _count(7);
            _unmaskAll(3);
            _settleAll(3);
        }
        vm.assertEq(_member(3).seatPlusOne, 0);
    }

    /// @dev After a re-organisation a participant has committed to other letters, and another set may be counted. What it is
    /// about to release a node has on its disk, and it releases no other kind of share: no contract can know of a block that
    /// is gone.
    function test_a_count_is_for_one_attempt_only() public {
        _openToCount(3);
        _count(1);
        ledger.restartRound(job);
        _commitMaskedAll(3);
        _expectWrongRound(0, 1);
        vm.prank(_coordinator(0));
        ledger.count(job, 0, 0, 7);
        _count(7);
        _expectWrongRound(0, 1);
        vm.prank(_participant(0));
        ledger.unmask(job, 0, 0, "of the attempt before");
    }

    function test_where_all_are_silent_after_a_count_nobody_profits() public {
        _openToUnmask(3);
        _skip(REVEAL_WINDOW);
        ledger.restartRound(job);
        for (uint256 i; i < 3; i++) vm.assertEq(_member(i).stake + _credit(i), 1 ether);
        vm.assertEq(_round().committed, 0);
        vm.assertEq(_round().attempt, 1, "with letters of its own");
    }

    /* GAMES THAT STAY */

    /// @dev A coordinator calls every attempt void. It costs it gas and nobody money: whoever it does not count loses its seat
    /// with the stake untouched, and the sponsor may close the job in every attempt.
    function test_a_coordinator_may_count_too_few_until_the_sponsor_closes() public {
        _openToCount(3);
        for (uint256 i; i < 2; i++) {
            if (i != 0) _commitMaskedAll(3);
            _count(0);
            ledger.restartRound(job);
        }
        for (uint256 i; i < 3; i++) {
            vm.assertEq(_member(i).seatPlusOne, 0);
            vm.assertEq(_withdraw(_participant(i)), 1 ether);
        }
        _close();
        vm.assertEq(_withdraw(sponsor), 27 ether);
    }

    /// @dev It leaves out one whom it does not like; to the audit the store has the letters.
    function test_a_coordinator_may_leave_out_a_third_who_lose_no_stake() public {
        _withMost(6, 3);
        _playMasked(3);
        _commitMaskedAll(6);
        _count(31);
        for (uint256 i; i < 5; i++) _unmask(i);
        _settleAll(5);
        vm.assertEq(_member(5).stake, 1 ether);
        vm.assertEq(_member(5).misses, 1);
    }

    /// @dev An idle seat that leaves in one attempt and comes again in the next is in every second cohort, of which it raises
    /// the least. The price: the gas of leaving and joining. A list of the admitted ends it.
    function test_an_idle_seat_may_be_in_every_second_masked_attempt() public {
        JobTerms memory terms = _masked();
        terms.rounds = 9;
        _newJob(terms);
        _open(3);
        _join(3);
        _playMasked(3);
        for (uint256 i; i < 3; i++) {
            vm.assertEq(_state().cohort, 15);
            _leave(3);
            _playMasked(3);
            vm.assertEq(_state().cohort, 7);
            _join(3);
            _playMasked(3);
            vm.assertEq(_member(3).seatPlusOne, 4);
            vm.assertEq(_member(3).misses, 0);
        }
    }

    /// @dev It costs nobody but time: a successor goes on after a settle window, everyone may leave, the sponsor may close.
    function test_a_coordinator_may_walk_off_from_a_starved_round_and_holds_nobody() public {
        _starve();
        vm.prank(_coordinator(0));
        ledger.releaseBond(job);
        ledger.restartRound(job);
        _assertPhase(Phase.Waiting);
        for (uint256 i; i < 3; i++) {
            _leave(i);
            vm.assertEq(_withdraw(_participant(i)), 1 ether);
        }
        _close();
        vm.assertEq(_withdraw(sponsor), 27 ether);
    }

    /// @dev Two seats of one owner commit to two updates, and it reveals the better. The price: the penalty, less what comes
    /// back to it as a part of the pot. `revealPenalty` is to be worth more than a second try.
    function test_revealing_the_better_of_two_updates_costs_a_penalty_less_ones_share() public {
        _openAndCommit(4);
        _revealAll(3);
        _skip(REVEAL_WINDOW);
        // Seats 2 and 3 are one owner's.
        _settleAll(3);
        uint256 owned = _credit(2) + _member(2).stake + _member(3).stake;
        vm.assertEq(owned, 2 ether + 3 ether - 0.4 ether + uint256(0.4 ether) / 3);
    }

    /// @dev Whoever holds all the seats that commit, and reveals in none, delays the job for nothing; the sponsor may close it
    /// in every attempt. The price: as many stakes as there are seats, and gas.
    function test_who_has_every_seat_can_delay_until_the_sponsor_closes() public {
        _open(2);
        for (uint256 i; i < 3; i++) {
            _commitAll(2);
            _skip(REVEAL_WINDOW);
            _assertPhase(Phase.Starved);
            ledger.restartRound(job);
        }
        _skip(COMMIT_WINDOW);
        _close();
        vm.assertEq(_withdraw(sponsor), 27 ether);
    }

    /// @dev Where anyone may join, an idle owner of fresh addresses keeps seats from others. The price: a stake for each, and
    /// the gas of leaving and joining. A list of the admitted ends it.
    function test_a_fresh_address_is_excused_once() public {
        JobTerms memory terms = _terms();
        (terms.rounds, terms.missLimit) = (9, 1);
        _newJob(terms);
        _open(2);
        for (uint256 i = 2; i < 5; i++) {
            _skip(1);
            _join(i);
            _commitAll(2);
            _skip(COMMIT_WINDOW);
            _revealAll(2);
            _settleAll(2);
            vm.assertEq(_member(i).seatPlusOne, 3);
            _leave(i);
        }
    }

    /// @dev What nobody settles is divided equally by seats that revealed, whatever that was. The price: their stakes are
    /// locked, the honest take their share of the settle penalty, and the job is over. A list of the admitted ends it.
    function test_seats_that_reveal_anything_share_a_round_that_nobody_settles() public {
        JobTerms memory terms = _terms();
        terms.maxParticipants = 8;
        _newJob(terms);
        // Seats 2 to 7 are one owner's.
        _open(8);
        _commitAll(8);
        _revealAll(8);
        while (ledger.phaseAt(job, block.timestamp) != Phase.Over) {
            _skip(SETTLE_WINDOW);
            ledger.replaceCoordinator(job);
        }
        uint256 honest = _credit(0);
        vm.assertGt(honest, 0, "paid");
        for (uint256 i; i < 8; i++) {
            vm.assertEq(_credit(i), honest);
            vm.assertEq(_member(i).stake, 1 ether);
        }
    }

    function _refused(JobTerms memory terms) internal {
        vm.expectRevert(
            abi.encodeWithSelector(ITrainingLedger.BadWindow.selector, LEAST_WINDOW, uint32(30 days))
        );
        ledger.createJob(terms, _coordinators());
    }
}
