// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {
    Departure, ITrainingLedger, JobId, JobState, JobTerms, Member, Outcome, Phase, Round, Stage
} from "../src/interfaces/ITrainingLedger.sol";
import {Actors} from "./Actors.sol";
import {Totals} from "./Accounting.sol";
import {Vm} from "./Vm.sol";

/// @notice What holds after any sequence of acts.
contract InvariantTest {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    Actors internal actors;
    ITrainingLedger internal ledger;
    address[] internal everyone;

    function setUp() public {
        vm.warp(1_800_000_000);
        actors = new Actors();
        ledger = actors.ledger();
        everyone = actors.everyone();
    }

    struct FuzzSelector {
        address target;
        bytes4[] selectors;
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(actors);
    }

    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(actors), _acts());
    }

    /* MONEY */

    function invariant_balance_equals_what_is_owed() public view {
        uint256 owed;
        uint256 held;
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            JobId job = JobId.wrap(id);
            JobState memory state = ledger.stateOf(job);
            owed += state.escrow;
            for (uint256 i; i < everyone.length; i++) {
                owed += ledger.memberOf(job, everyone[i]).stake + ledger.creditOf(job, everyone[i]);
                owed += ledger.bondOf(job, everyone[i]);
            }
            held += actors.totals(job).paidIn - actors.totals(job).paidOut;
        }
        vm.assertEq(address(ledger).balance, owed, "owed");
        vm.assertEq(address(ledger).balance, held, "paid in and not out");
    }

    function invariant_rewards_never_exceed_escrow() public view {
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            JobId job = JobId.wrap(id);
            JobTerms memory terms = ledger.termsOf(job);
            Totals memory totals = actors.totals(job);
            uint24 settled = ledger.roundOf(job).number;
            // One more where nobody was left to settle the last.
            bool abandoned = actors.outcomePlusOne(job) == uint256(Outcome.Abandoned) + 1;
            uint256 pots = uint256(abandoned ? settled + 1 : settled) * terms.reward + totals.penalties;
            vm.assertLe(totals.earned, pots, "more than the pots");
            if (_isOver(job)) continue;
            uint256 needed = uint256(terms.rounds - settled) * terms.reward;
            vm.assertLe(needed, ledger.stateOf(job).escrow, "too little for the rounds to come");
        }
    }

    function invariant_every_penalty_lands_with_somebody() public view {
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            JobId job = JobId.wrap(id);
            Totals memory totals = actors.totals(job);
            vm.assertEq(
                totals.budget + totals.penalties,
                totals.earned + totals.refund + ledger.stateOf(job).escrow,
                "rewards and penalties are credited, or still in escrow"
            );
            if (_isOver(job)) vm.assertEq(ledger.stateOf(job).escrow, 0, "nothing is in escrow in the end");
        }
    }

    /* PHASES */

    function invariant_the_phase_is_what_the_terms_mean() public view {
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            JobId job = JobId.wrap(id);
            Round memory round = ledger.roundOf(job);
            uint32 settleWindow = ledger.termsOf(job).settleWindow;
            uint256[4] memory ends = [block.timestamp, round.commitEnd, round.revealEnd, round.revealEnd + settleWindow];
            for (uint256 i; i < ends.length; i++) {
                _assertPhase(job, ends[i]);
                if (ends[i] != 0) _assertPhase(job, ends[i] - 1);
            }
        }
    }

    function _assertPhase(JobId job, uint256 time) internal view {
        vm.assertEq(uint256(ledger.phaseAt(job, time)), uint256(actors.phaseOf(job, time)), "phase");
    }

    function invariant_over_and_disclosing_never_reopen() public view {
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            JobId job = JobId.wrap(id);
            Stage stage = ledger.roundOf(job).stage;
            vm.assertTrue((stage == Stage.Over) == (actors.outcomePlusOne(job) != 0), "it is over once it has ended");
            bool played = ledger.roundOf(job).number == ledger.termsOf(job).rounds;
            if (played) vm.assertTrue(stage == Stage.Over || stage == Stage.Disclosing, "no round is left");
            if (stage == Stage.Disclosing) vm.assertTrue(actors.withholds(job), "it waits for nothing");
        }
    }

    /* THE HONEST PARTICIPANT */

    function invariant_who_reveals_in_time_is_never_penalised() public view {
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            vm.assertEq(actors.totals(JobId.wrap(id)).honestPenalties, 0, "penalised");
        }
    }

    /// @dev From wherever the acts have led, with nobody's help: only time, and calls that are anybody's.
    function invariant_honest_participant_can_always_get_its_stake_back() public {
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            uint256 here = vm.snapshotState();
            _goHome(JobId.wrap(id));
            vm.revertToState(here);
        }
    }

    function _goHome(JobId job) internal {
        address honest = actors.honest();
        JobTerms memory terms = ledger.termsOf(job);
        uint256 latest = block.timestamp + terms.commitWindow + terms.revealWindow + 4 * uint256(terms.settleWindow);
        Member memory member = ledger.memberOf(job, honest);
        for (uint256 step; member.seatPlusOne != 0; step++) {
            vm.assertLe(step, 16, "it does not get away");
            Round memory round = ledger.roundOf(job);
            uint64 bit = uint64(1) << (member.seatPlusOne - 1);
            Phase phase = ledger.phaseAt(job, block.timestamp);
            if (round.committed & bit == 0) {
                vm.prank(honest);
                ledger.leave(job);
            } else if (phase == Phase.Committing) {
                vm.warp(round.commitEnd);
            } else if (phase == Phase.Revealing && round.revealed & bit == 0) {
                vm.prank(honest);
                if (round.stage == Stage.Open) ledger.reveal(job, "digest", "root", "salt");
                else ledger.unmask(job, round.number, round.attempt, "release");
            } else if (phase == Phase.Revealing) {
                vm.warp(round.revealEnd);
            } else if (phase == Phase.Settling || phase == Phase.Counting) {
                vm.warp(round.revealEnd + terms.settleWindow);
            } else if (phase == Phase.Overdue) {
                ledger.replaceCoordinator(job);
            } else {
                ledger.restartRound(job);
            }
            member = ledger.memberOf(job, honest);
        }
        vm.assertLe(block.timestamp, latest, "in bounded time");

        Totals memory totals = actors.totals(job);
        uint256 before = honest.balance;
        if (ledger.creditOf(job, honest) != 0) {
            vm.prank(honest);
            ledger.withdraw(job);
        }
        vm.assertLe(totals.honestPaidIn, totals.honestPaidOut + honest.balance - before, "it has lost something");
    }

    /* THE KEY OF A WITHHELD VALIDATION SET */

    function invariant_who_is_to_disclose_has_its_bond_in_deposit() public view {
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            JobId job = JobId.wrap(id);
            JobState memory state = ledger.stateOf(job);
            if (_isOver(job) || !actors.withholds(job)) continue;
            address serving = ledger.coordinatorsOf(job)[state.coordinator];
            vm.assertEq(ledger.bondOf(job, serving), ledger.termsOf(job).bond, "it could withhold the key for nothing");
        }
    }

    /// @dev Nobody discloses; with nothing but time, and calls that are anybody's, the escrow is free again.
    function invariant_a_job_that_waits_for_its_key_ends_in_bounded_time() public {
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            JobId job = JobId.wrap(id);
            if (ledger.roundOf(job).stage != Stage.Disclosing) continue;
            uint256 here = vm.snapshotState();
            for (uint256 i; i < 3 && !_isOver(job); i++) {
                vm.warp(ledger.roundOf(job).revealEnd + ledger.termsOf(job).settleWindow);
                ledger.replaceCoordinator(job);
            }
            vm.assertTrue(_isOver(job), "it waits for ever");
            vm.revertToState(here);
        }
    }

    /* THE COORDINATORS' BONDS */

    function invariant_who_is_to_settle_has_its_bond_in_deposit() public view {
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            JobId job = JobId.wrap(id);
            Stage stage = ledger.roundOf(job).stage;
            bool open = stage == Stage.Open || stage == Stage.Masking || stage == Stage.Unmasking;
            if (!open || ledger.phaseAt(job, block.timestamp) == Phase.Starved) continue;
            address serving = ledger.coordinatorsOf(job)[ledger.stateOf(job).coordinator];
            vm.assertEq(ledger.bondOf(job, serving), ledger.termsOf(job).bond, "it could miss its deadline for nothing");
        }
    }

    function invariant_who_is_replaced_for_want_of_a_bond_has_none() public view {
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            JobId job = JobId.wrap(id);
            bool enough = ledger.roundOf(job).seated >= ledger.termsOf(job).minParticipants;
            if (!enough || ledger.phaseAt(job, block.timestamp) != Phase.Waiting) continue;
            address serving = ledger.coordinatorsOf(job)[ledger.stateOf(job).coordinator];
            vm.assertEq(ledger.bondOf(job, serving), 0, "it waits for nothing");
        }
    }

    /* MASKED ROUNDS */

    function invariant_an_attempt_is_counted_at_most_once() public view {
        vm.assertLe(actors.recounts(), 1, "a second sum");
    }

    /// @dev Enough have committed, and nobody has counted; or too few are counted, and the round is not restarted.
    function invariant_a_coordinator_whom_commitments_wait_for_cannot_leave_for_nothing() public view {
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            JobId job = JobId.wrap(id);
            (, uint256 times) = actors.countOf(job);
            bool starved = ledger.phaseAt(job, block.timestamp) == Phase.Starved;
            if (ledger.roundOf(job).stage != Stage.Masking || (starved && times == 0)) continue;
            address serving = ledger.coordinatorsOf(job)[ledger.stateOf(job).coordinator];
            vm.assertEq(ledger.bondOf(job, serving), ledger.termsOf(job).bond, "it has taken its bond home");
        }
    }

    function invariant_a_counted_set_never_changes() public view {
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            JobId job = JobId.wrap(id);
            Round memory round = ledger.roundOf(job);
            (uint64 counted, uint256 times) = actors.countOf(job);
            if (round.stage == Stage.Unmasking) vm.assertEq(times, 1, "unmasked without a count");
            if (times != 0 && round.stage != Stage.Over && round.stage != Stage.Disclosing) {
                vm.assertEq(round.committed, counted, "another set");
            }
        }
    }

    function invariant_who_is_counted_was_there_from_the_opening_and_they_are_two_thirds() public view {
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            JobId job = JobId.wrap(id);
            Round memory round = ledger.roundOf(job);
            uint64 cohort = ledger.stateOf(job).cohort;
            if (round.stage != Stage.Masking && round.stage != Stage.Unmasking) continue;
            vm.assertEq(cohort & ~ledger.stateOf(job).seats, 0, "who is left of the cohort is seated");
            vm.assertEq(round.committed & ~cohort, 0, "who committed was there");
            if (round.stage != Stage.Unmasking) continue;
            vm.assertLe(2 * actors.openedWith(job), 3 * _ones(round.committed), "two thirds");
            vm.assertLe(ledger.termsOf(job).minParticipants, _ones(round.committed), "and no fewer than the job needs");
        }
    }

    function invariant_who_unmasks_is_counted() public view {
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            JobId job = JobId.wrap(id);
            Round memory round = ledger.roundOf(job);
            (uint64 counted,) = actors.countOf(job);
            if (round.stage == Stage.Masking) vm.assertEq(round.revealed, 0, "unmasked before the count");
            if (round.stage == Stage.Unmasking) vm.assertEq(round.revealed & ~counted, 0, "unmasked though not counted");
        }
    }

    function invariant_nobody_is_penalised_in_a_masked_round_who_was_not_counted() public view {
        vm.assertEq(actors.uncountedPenalties(), 0, "penalised");
    }

    /* SEATS */

    function invariant_seats_and_bitmaps_agree() public view {
        for (uint256 id = 1; id <= ledger.jobCount(); id++) {
            JobId job = JobId.wrap(id);
            JobTerms memory terms = ledger.termsOf(job);
            JobState memory state = ledger.stateOf(job);
            Round memory round = ledger.roundOf(job);

            vm.assertEq(_ones(state.seats), round.seated, "seated");
            vm.assertEq(round.committed & ~state.seats, 0, "who committed is seated");
            vm.assertEq(round.revealed & ~state.seats, 0, "who revealed is seated");
            if (!terms.masked || round.stage == Stage.Waiting) vm.assertEq(round.least, terms.minParticipants, "least");
            if (round.stage != Stage.Disclosing) vm.assertEq(round.revealed & ~round.committed, 0, "who revealed had committed");
            vm.assertLe(round.seated, terms.maxParticipants, "seats");
            bool open = round.stage == Stage.Open || round.stage == Stage.Masking || round.stage == Stage.Unmasking;
            vm.assertTrue(open || round.committed == 0, "nobody commits without a round");
            for (uint8 seat; seat < 7; seat++) {
                address participant = ledger.participantAt(job, seat);
                vm.assertTrue((state.seats >> seat & 1 != 0) == (participant != address(0)), "a taken seat is somebody's");
                if (participant == address(0)) continue;
                vm.assertEq(ledger.memberOf(job, participant).seatPlusOne, seat + 1, "who knows where it sits");
            }
            for (uint256 i; i < everyone.length; i++) {
                Member memory member = ledger.memberOf(job, everyone[i]);
                if (member.seatPlusOne == 0) continue;
                vm.assertEq(ledger.participantAt(job, member.seatPlusOne - 1), everyone[i], "in one seat only");
                vm.assertLe(terms.revealPenalty, member.stake, "a seat's stake covers a penalty");
                vm.assertLe(member.misses + 1, terms.missLimit, "misses");
            }
        }
    }

    /* DEPTH */

    /// @dev That the acts reach what the invariants are about: thousands of them, drawn by hash, cause every event, every
    /// way to lose a seat and every end.
    function test_the_acts_reach_every_depth() public {
        bytes4[] memory acts = _acts();
        for (uint256 episode; episode < 12; episode++) {
            setUp();
            for (uint256 i; i < 500; i++) {
                uint256 seed = uint256(keccak256(abi.encode(episode, i)));
                bytes memory arguments = abi.encode(seed >> 8, seed >> 16, uint32(seed >> 24), bytes32(seed));
                (bool done,) = address(actors).call(bytes.concat(acts[seed % acts.length], arguments));
                vm.assertTrue(done, "an act failed");
            }
            invariant_balance_equals_what_is_owed();
            invariant_every_penalty_lands_with_somebody();
            invariant_seats_and_bitmaps_agree();
            invariant_who_is_to_disclose_has_its_bond_in_deposit();
            invariant_a_job_that_waits_for_its_key_ends_in_bounded_time();
            invariant_who_is_to_settle_has_its_bond_in_deposit();
            invariant_the_phase_is_what_the_terms_mean();
            invariant_over_and_disclosing_never_reopen();
            invariant_who_is_replaced_for_want_of_a_bond_has_none();
            invariant_an_attempt_is_counted_at_most_once();
            invariant_a_coordinator_whom_commitments_wait_for_cannot_leave_for_nothing();
            invariant_a_counted_set_never_changes();
            invariant_who_is_counted_was_there_from_the_opening_and_they_are_two_thirds();
            invariant_who_unmasks_is_counted();
            invariant_nobody_is_penalised_in_a_masked_round_who_was_not_counted();
            _count();
        }
        for (uint256 i; i < 18; i++) vm.assertGt(_seen[_topics()[i]], 12, "an event was rare");
        vm.assertGt(_seen[ITrainingLedger.DisclosureDue.selector], 5, "hardly a job waited for its key");
        vm.assertGt(_seen[ITrainingLedger.ValidationDisclosed.selector], 5, "hardly a key was disclosed");
        vm.assertGt(_voids, 5, "hardly a count was void");
        vm.assertGt(_takeovers, 5, "hardly a bond was missing");
        vm.assertGt(_closedByLeaving, 5, "hardly anybody was waited for and left");
        for (uint256 i; i < 3; i++) vm.assertGt(_departures[i], 5, "a way to lose a seat was rare");
        for (uint256 i; i < 3; i++) vm.assertGt(_ends[i], 1, "an end was not reached");
    }

    mapping(bytes32 => uint256) internal _seen;
    uint256 internal _takeovers;
    uint256 internal _closedByLeaving;
    uint256 internal _voids;
    mapping(uint256 => uint256) internal _departures;
    mapping(uint256 => uint256) internal _ends;

    function _count() internal {
        for (uint256 i; i < _topics().length; i++) _seen[_topics()[i]] += actors.seen(_topics()[i]);
        _takeovers += actors.takeovers();
        _closedByLeaving += actors.closedByLeaving();
        _voids += actors.voids();
        for (uint256 i; i < 3; i++) _departures[i] += actors.departures(Departure(i));
        for (uint256 i; i < 3; i++) _ends[i] += actors.ends(Outcome(i));
    }

    function _topics() internal pure returns (bytes32[20] memory) {
        return [
            ITrainingLedger.JobCreated.selector,
            ITrainingLedger.BondPosted.selector,
            ITrainingLedger.BondReleased.selector,
            ITrainingLedger.Joined.selector,
            ITrainingLedger.Left.selector,
            ITrainingLedger.RoundOpened.selector,
            ITrainingLedger.RoundStarved.selector,
            ITrainingLedger.Committed.selector,
            ITrainingLedger.Revealed.selector,
            ITrainingLedger.PenaltyTaken.selector,
            ITrainingLedger.Settled.selector,
            ITrainingLedger.Shared.selector,
            ITrainingLedger.CoordinatorReplaced.selector,
            ITrainingLedger.JobEnded.selector,
            ITrainingLedger.Withdrawn.selector,
            ITrainingLedger.CommittedMasked.selector,
            ITrainingLedger.Counted.selector,
            ITrainingLedger.Unmasked.selector,
            ITrainingLedger.DisclosureDue.selector,
            ITrainingLedger.ValidationDisclosed.selector
        ];
    }

    function _acts() internal pure returns (bytes4[] memory acts) {
        acts = new bytes4[](19);
        acts[0] = Actors.createJob.selector;
        acts[1] = Actors.closeJob.selector;
        acts[2] = Actors.postBond.selector;
        acts[3] = Actors.releaseBond.selector;
        acts[4] = Actors.settle.selector;
        acts[5] = Actors.replaceCoordinator.selector;
        acts[6] = Actors.join.selector;
        acts[7] = Actors.leave.selector;
        acts[8] = Actors.commit.selector;
        acts[9] = Actors.reveal.selector;
        acts[10] = Actors.restartRound.selector;
        acts[11] = Actors.withdraw.selector;
        acts[12] = Actors.wait.selector;
        acts[13] = Actors.carryOn.selector;
        acts[14] = Actors.anyoneTries.selector;
        acts[15] = Actors.disclose.selector;
        acts[16] = Actors.takeOver.selector;
        acts[17] = Actors.count.selector;
        acts[18] = Actors.leaveLast.selector;
    }

    function _isOver(JobId job) internal view returns (bool) {
        return ledger.roundOf(job).stage == Stage.Over;
    }

    function _ones(uint64 bits) internal pure returns (uint256 ones) {
        for (; bits != 0; bits &= bits - 1) ones++;
    }
}
