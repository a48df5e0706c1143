// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ITrainingLedger, JobId, JobTerms, Phase} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

contract ReleaseBondTest is BaseTest {
    /* WHAT IT DOES */

    function test_releaseBond(uint96 bond, uint256 which) public {
        which %= 3;
        JobTerms memory terms = _terms();
        terms.bond = uint96(_bound(bond, terms.settlePenalty, type(uint96).max));
        _newJob(terms);
        _postBond(which);
        uint256 held = address(ledger).balance;

        _expectEvent();
        emit ITrainingLedger.BondReleased(job, _coordinator(which), terms.bond);
        _release(which);

        vm.assertEq(ledger.bondOf(job, _coordinator(which)), 0);
        vm.assertEq(ledger.creditOf(job, _coordinator(which)), terms.bond);
        vm.assertEq(address(ledger).balance, held, "it is credited, not sent");
    }

    function test_a_round_does_not_open_without_it() public {
        _postBond(0);
        _release(0);
        _join(0);
        _join(1);
        _assertPhase(Phase.Waiting);
    }

    function test_a_reserve_may_at_any_time(uint8 which) public {
        Phase phase = Phase(which % 9);
        if (phase == Phase.Over) _postBond(1);
        _bring(phase);
        if (phase != Phase.Over) _postBond(1);
        _release(1);
        vm.assertEq(ledger.creditOf(job, _coordinator(1)), 5 ether);
    }

    function test_one_that_was_replaced_may_at_any_time() public {
        _openToReveal(2);
        _postBond(1);
        _skip(SETTLE_WINDOW);
        ledger.replaceCoordinator(job);
        _postBond(0);
        _release(0);
        vm.assertEq(ledger.creditOf(job, _coordinator(0)), 3 ether + 5 ether);
    }

    function test_the_serving_one_may_when_the_job_is_over() public {
        _postBond(0);
        _close();
        _release(0);
        vm.assertEq(ledger.creditOf(job, _coordinator(0)), 5 ether);
    }

    function test_the_serving_one_may_when_the_round_has_starved() public {
        _bring(Phase.Starved);
        bytes memory round = abi.encode(_round());
        _release(0);
        vm.assertEq(ledger.creditOf(job, _coordinator(0)), 5 ether);
        vm.assertEq(abi.encode(_round()), round);
        ledger.restartRound(job);
        _assertPhase(Phase.Waiting);
        _postBond(0);
        _assertPhase(Phase.Committing);
    }

    /* WHAT IT REFUSES */

    function test_the_serving_one_not_while_a_round_is_open(uint8 which) public {
        Phase phase = Phase(which % 9);
        vm.assume(phase != Phase.Waiting && phase != Phase.Starved && phase != Phase.Over);
        _bring(phase);
        _expectError(ITrainingLedger.BondInUse.selector, uint256(phase));
        _release(0);
    }

    function test_the_serving_one_not_while_settled_rounds_want_the_key() public {
        JobTerms memory terms = _terms();
        terms.validationLock = LOCK;
        _newJob(terms);
        _open(2);
        _playRound(2);
        _skip(COMMIT_WINDOW);
        _leave(0);
        _expectError(ITrainingLedger.BondInUse.selector, uint256(Phase.Starved));
        _release(0);
        ledger.restartRound(job);
        _assertPhase(Phase.Waiting);
        _expectError(ITrainingLedger.BondInUse.selector, uint256(Phase.Waiting));
        _release(0);
        _disclose();
        _release(0);
    }

    /// @dev Whose count made an attempt void serves the next one, and may go where nobody commits to that.
    function test_the_serving_one_not_while_its_count_has_made_an_attempt_void() public {
        _openToCount(3);
        _count(3);
        _expectError(ITrainingLedger.BondInUse.selector, uint256(Phase.Starved));
        _release(0);
        ledger.restartRound(job);
        _expectError(ITrainingLedger.BondInUse.selector, uint256(Phase.Committing));
        _release(0);
        _skip(COMMIT_WINDOW);
        _assertPhase(Phase.Starved);
        _release(0);
        vm.assertEq(ledger.creditOf(job, _coordinator(0)), 5 ether);
    }

    /// @dev It has done what it could.
    function test_the_serving_one_may_when_nobody_has_unmasked() public {
        _openToUnmask(3);
        _skip(REVEAL_WINDOW);
        _assertPhase(Phase.Starved);
        _release(0);
        vm.assertEq(ledger.creditOf(job, _coordinator(0)), 5 ether);
    }

    function test_the_serving_one_not_while_it_is_to_disclose(bool late) public {
        _bring(Phase.Disclosing);
        if (late) _skip(SETTLE_WINDOW);
        _expectError(ITrainingLedger.BondInUse.selector, uint256(late ? Phase.Overdue : Phase.Disclosing));
        _release(0);
        _disclose();
        _release(0);
        vm.assertEq(ledger.creditOf(job, _coordinator(0)), 5 ether);
    }

    function test_a_successor_not_once_it_serves() public {
        _openToReveal(2);
        _postBond(1);
        _skip(SETTLE_WINDOW);
        ledger.replaceCoordinator(job);
        _expectError(ITrainingLedger.BondInUse.selector, uint256(Phase.Settling));
        _release(1);
    }

    function test_who_has_none_is_refused(address caller) public {
        _expectError(ITrainingLedger.NoBond.selector, caller);
        vm.prank(caller);
        ledger.releaseBond(job);
    }

    function test_only_once() public {
        _postBond(0);
        _release(0);
        _expectError(ITrainingLedger.NoBond.selector, _coordinator(0));
        _release(0);
    }

    function test_a_replaced_coordinators_bond_is_gone() public {
        _openToReveal(2);
        _skip(SETTLE_WINDOW);
        ledger.replaceCoordinator(job);
        _expectError(ITrainingLedger.NoBond.selector, _coordinator(0));
        _release(0);
    }

    function test_an_unknown_job_is_refused(JobId unknown) public {
        vm.assume(JobId.unwrap(unknown) != JobId.unwrap(job));
        _expectUnknownJob(unknown);
        ledger.releaseBond(unknown);
    }

    function _release(uint256 i) internal {
        vm.prank(_coordinator(i));
        ledger.releaseBond(job);
    }
}
