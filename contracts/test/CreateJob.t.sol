// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ITrainingLedger, JobId, JobState, JobTerms, Phase, Round} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

contract CreateJobTest is BaseTest {
    /* WHAT IT DOES */

    function test_createJob(JobTerms memory terms, uint256 count, address caller) public {
        vm.assume(caller != address(0) && caller != address(ledger));
        terms = _valid(terms);
        address[] memory coordinators = _list(_bound(count, 1, 8));
        uint256 budget = uint256(terms.rounds) * terms.reward;
        uint256 before = address(ledger).balance;
        JobId expected = JobId.wrap(ledger.jobCount() + 1);

        vm.deal(caller, budget);
        _expectEvent();
        emit ITrainingLedger.JobCreated(expected, caller, terms, coordinators);
        vm.prank(caller);
        job = ledger.createJob{value: budget}(terms, coordinators);

        vm.assertEq(JobId.unwrap(job), JobId.unwrap(expected));
        vm.assertEq(ledger.jobCount(), JobId.unwrap(expected));
        vm.assertEq(address(ledger).balance, before + budget);
        vm.assertEq(abi.encode(ledger.termsOf(job)), abi.encode(terms), "terms");
        vm.assertEq(abi.encode(ledger.coordinatorsOf(job)), abi.encode(coordinators), "coordinators");
        JobState memory state;
        state.sponsor = caller;
        // Not above 2^128 because `rounds` has 24 bits and `reward` 96.
        state.escrow = uint128(budget);
        state.termsHash = keccak256(abi.encode(caller, terms, coordinators));
        (state.modelDigest, state.modelRoot) = (terms.modelDigest, terms.modelRoot);
        vm.assertEq(abi.encode(_state()), abi.encode(state), "state");
        Round memory none;
        none.least = terms.minParticipants;
        vm.assertEq(abi.encode(_round()), abi.encode(none), "no round is open");
        _assertPhase(Phase.Waiting);
    }

    function test_the_largest_budget_does_not_overflow() public {
        JobTerms memory terms = _terms();
        (terms.rounds, terms.reward) = (type(uint24).max, type(uint96).max);
        _newJob(terms);
        vm.assertEq(_state().escrow, uint256(type(uint24).max) * type(uint96).max);
    }

    function test_the_reward_may_be_zero() public {
        JobTerms memory terms = _terms();
        terms.reward = 0;
        _newJob(terms);
        vm.assertEq(_state().escrow, 0);
    }

    function test_jobs_share_nothing() public {
        _open(2);
        JobId first = job;
        _newJob(_terms());

        vm.assertEq(ledger.memberOf(job, _participant(0)).seatPlusOne, 0);
        vm.assertEq(ledger.bondOf(job, _coordinator(0)), 0);
        _assertPhase(Phase.Waiting);
        _open(2);
        _playRound(2);
        vm.assertEq(ledger.roundOf(first).number, 0);
        vm.assertEq(ledger.roundOf(first).committed, 0);
        vm.assertEq(ledger.creditOf(first, _participant(0)), 0);
        vm.assertEq(ledger.stateOf(first).escrow, 27 ether);
    }

    /* WHAT IT REFUSES */

    function test_zero_rounds_are_refused() public {
        JobTerms memory terms = _terms();
        terms.rounds = 0;
        _expectError(ITrainingLedger.ZeroRounds.selector);
        ledger.createJob(terms, _coordinators());
    }

    function test_a_window_that_is_too_short_or_too_long_is_refused(uint8 which, uint32 window, bool long) public {
        JobTerms memory terms = _terms();
        window = uint32(long ? _bound(window, 30 days + 1, type(uint32).max) : _bound(window, 0, LEAST_WINDOW - 1));
        if (which % 3 == 0) terms.commitWindow = window;
        else if (which % 3 == 1) terms.revealWindow = window;
        else terms.settleWindow = window;
        _expectBadWindow(LEAST_WINDOW);
        ledger.createJob(terms, _coordinators());
    }

    function test_the_shortest_and_the_longest_window() public {
        JobTerms memory terms = _terms();
        (terms.commitWindow, terms.revealWindow, terms.settleWindow) = (LEAST_WINDOW, LEAST_WINDOW, LEAST_WINDOW);
        _newJob(terms);
        (terms.commitWindow, terms.revealWindow, terms.settleWindow) = (30 days, 30 days, 30 days);
        _newJob(terms);
    }

    function test_a_ledger_without_a_least_window_is_none(uint32 window) public {
        vm.assume(window > 30 days);
        vm.assertEq(ledger.leastWindow(), LEAST_WINDOW);
        vm.assertEq(this.deployWith(1), 1);
        vm.assertEq(this.deployWith(30 days), 30 days);
        vm.assertFalse(_canDeployWith(0));
        vm.assertFalse(_canDeployWith(window));
    }

    function deployWith(uint32 window) external returns (uint32) {
        return ITrainingLedger(vm.deployCode("TrainingLedger.sol:TrainingLedger", abi.encode(window))).leastWindow();
    }

    function _canDeployWith(uint32 window) internal returns (bool) {
        try this.deployWith(window) {
            return true;
        } catch {
            return false;
        }
    }

    function _expectBadWindow(uint32 least) internal {
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.BadWindow.selector, least, uint32(30 days)));
    }

    function test_a_zero_digest_is_refused(uint8 which) public {
        JobTerms memory terms = _terms();
        if (which % 3 == 0) terms.specDigest = 0;
        else if (which % 3 == 1) terms.modelDigest = 0;
        else terms.modelRoot = 0;
        _expectError(ITrainingLedger.ZeroDigest.selector);
        ledger.createJob(terms, _coordinators());
    }

    function test_participant_limits_that_make_no_sense_are_refused(uint8 least, uint8 most) public {
        vm.assume(least == 0 || least > most || most > 64);
        JobTerms memory terms = _terms();
        (terms.minParticipants, terms.maxParticipants) = (least, most);
        _expectError(ITrainingLedger.BadParticipantLimits.selector, 64);
        ledger.createJob(terms, _coordinators());
    }

    function test_one_seat_more_than_there_are_bits_is_refused() public {
        test_participant_limits_that_make_no_sense_are_refused(1, 65);
        test_participant_limits_that_make_no_sense_are_refused(5, 4);
        test_participant_limits_that_make_no_sense_are_refused(0, 4);
    }

    function test_a_masked_job_has_at_least_three() public {
        JobTerms memory terms = _masked();
        terms.minParticipants = 2;
        _expectError(ITrainingLedger.TooFewToHide.selector, 3);
        ledger.createJob(terms, _coordinators());
        terms.minParticipants = 3;
        _newJob(terms);
        vm.assertTrue(ledger.termsOf(job).masked);
    }

    function test_a_zero_miss_limit_is_refused() public {
        JobTerms memory terms = _terms();
        terms.missLimit = 0;
        _expectError(ITrainingLedger.ZeroMissLimit.selector);
        ledger.createJob(terms, _coordinators());
    }

    function test_a_reveal_penalty_above_the_stake_is_refused(uint96 stake, uint96 penalty) public {
        vm.assume(penalty > stake);
        JobTerms memory terms = _terms();
        (terms.stake, terms.revealPenalty) = (stake, penalty);
        _expectError(ITrainingLedger.PenaltyExceedsDeposit.selector, stake);
        ledger.createJob(terms, _coordinators());
    }

    function test_a_settle_penalty_above_the_bond_is_refused(uint96 bond, uint96 penalty) public {
        vm.assume(penalty > bond);
        JobTerms memory terms = _terms();
        (terms.bond, terms.settlePenalty) = (bond, penalty);
        _expectError(ITrainingLedger.PenaltyExceedsDeposit.selector, bond);
        ledger.createJob(terms, _coordinators());
    }

    function test_no_coordinator_or_more_than_eight_are_refused(uint256 count) public {
        _expectError(ITrainingLedger.BadCoordinatorCount.selector, 8);
        ledger.createJob(_terms(), _list(0));
        _expectError(ITrainingLedger.BadCoordinatorCount.selector, 8);
        ledger.createJob(_terms(), _list(_bound(count, 9, 40)));
    }

    function test_a_coordinator_without_an_address_is_refused(uint256 count, uint256 at) public {
        address[] memory coordinators = _list(_bound(count, 1, 8));
        coordinators[at % coordinators.length] = address(0);
        _expectError(ITrainingLedger.BadCoordinator.selector, address(0));
        ledger.createJob(_terms(), coordinators);
    }

    function test_a_coordinator_that_is_listed_twice_is_refused(uint256 count, uint256 at, uint256 again) public {
        address[] memory coordinators = _list(_bound(count, 2, 8));
        (at, again) = (at % coordinators.length, again % coordinators.length);
        vm.assume(at != again);
        coordinators[at] = coordinators[again];
        _expectError(ITrainingLedger.BadCoordinator.selector, coordinators[again]);
        ledger.createJob(_terms(), coordinators);
    }

    function test_any_value_but_the_budget_is_refused(uint256 value) public {
        value = _bound(value, 0, 1000 ether);
        vm.assume(value != 27 ether);
        vm.deal(address(this), value);
        _expectError(ITrainingLedger.WrongValue.selector, 27 ether);
        ledger.createJob{value: value}(_terms(), _coordinators());
    }

    /* INPUTS */

    function _list(uint256 count) internal pure returns (address[] memory list) {
        list = new address[](count);
        for (uint256 i; i < count; i++) list[i] = _coordinator(i);
    }

    /// @dev Changes as little as makes them terms that are accepted.
    function _valid(JobTerms memory terms) internal pure returns (JobTerms memory) {
        if (terms.specDigest == 0) terms.specDigest = "spec";
        if (terms.modelDigest == 0) terms.modelDigest = "model";
        if (terms.modelRoot == 0) terms.modelRoot = "root";
        if (terms.rounds == 0) terms.rounds = 1;
        if (terms.missLimit == 0) terms.missLimit = 1;
        terms.commitWindow = uint32(_bound(terms.commitWindow, LEAST_WINDOW, 30 days));
        terms.revealWindow = uint32(_bound(terms.revealWindow, LEAST_WINDOW, 30 days));
        terms.settleWindow = uint32(_bound(terms.settleWindow, LEAST_WINDOW, 30 days));
        uint8 least = terms.masked ? 3 : 1;
        terms.maxParticipants = uint8(_bound(terms.maxParticipants, least, 64));
        terms.minParticipants = uint8(_bound(terms.minParticipants, least, terms.maxParticipants));
        terms.revealPenalty = uint96(_bound(terms.revealPenalty, 0, terms.stake));
        terms.settlePenalty = uint96(_bound(terms.settlePenalty, 0, terms.bond));
        return terms;
    }
}
