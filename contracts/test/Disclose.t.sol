// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ITrainingLedger, JobId, JobState, JobTerms, Outcome, Phase} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

contract DiscloseTest is BaseTest {
    /* WHAT IT DOES */

    function test_disclose_ends_a_job_that_waits_for_it(bytes32 key, address caller, bool late) public {
        vm.assume(key != 0);
        JobTerms memory terms = _withheld();
        terms.validationLock = keccak256(abi.encode(key));
        _newJob(terms);
        _openToReveal(3);
        _settle(1, _score(0));
        if (late) _skip(SETTLE_WINDOW);
        vm.assertEq(_state().validationKey, 0);

        _expectEvent();
        emit ITrainingLedger.ValidationDisclosed(job, key);
        _expectEvent();
        emit ITrainingLedger.JobEnded(job, Outcome.Completed, 9 ether);
        vm.prank(caller);
        ledger.disclose(job, key);

        JobState memory state = _state();
        vm.assertEq(state.validationKey, key);
        vm.assertEq(state.escrow, 0);
        vm.assertEq(_round().revealEnd + _round().revealed, 0);
        _assertPhase(Phase.Over);
    }

    function test_in_any_other_phase_it_only_records_the_key(uint8 which) public {
        Phase phase = Phase(which % 9);
        vm.assume(phase != Phase.Disclosing);
        JobTerms memory terms = _terms();
        terms.validationLock = LOCK;
        _newJob(terms);
        _bring(phase);
        bytes memory round = abi.encode(_round());
        uint256 held = address(ledger).balance;

        vm.recordLogs();
        _disclose();
        _assertLogCount(1);
        vm.assertEq(_state().validationKey, KEY);
        vm.assertEq(abi.encode(_round()), round);
        vm.assertEq(address(ledger).balance, held);
        _assertPhase(phase);
    }

    function test_a_job_that_was_abandoned_without_its_key_can_still_get_it() public {
        _bring(Phase.Disclosing);
        _skip(SETTLE_WINDOW);
        ledger.replaceCoordinator(job);
        uint256 credit = _credit(0);
        _disclose();
        vm.assertEq(_state().validationKey, KEY);
        vm.assertEq(_credit(0), credit, "no money moves");
    }

    function test_everybody_can_go_home_afterwards(bool replaced) public {
        _bring(Phase.Disclosing);
        if (replaced) {
            _postBond(1);
            _skip(SETTLE_WINDOW);
            ledger.replaceCoordinator(job);
        }
        _disclose();
        for (uint256 i; i < 3; i++) {
            _leave(i);
            _withdraw(_participant(i));
        }
        vm.prank(_serving());
        ledger.releaseBond(job);
        vm.assertEq(_withdraw(_serving()), 5 ether);
        // What the forfeited bond did not divide into.
        if (replaced) _withdraw(sponsor);
        JobId other = JobId.wrap(1);
        vm.assertEq(address(ledger).balance, ledger.stateOf(other).escrow);
    }

    /* WHAT IT REFUSES */

    function test_only_the_key_that_fits(bytes32 key) public {
        vm.assume(key != KEY);
        _bring(Phase.Disclosing);
        _expectError(ITrainingLedger.WrongKey.selector, uint256(LOCK));
        ledger.disclose(job, key);
    }

    function test_a_public_set_has_no_key(bytes32 key) public {
        _expectError(ITrainingLedger.WrongKey.selector, 0);
        ledger.disclose(job, key);
    }

    function test_no_key_is_zero() public {
        JobTerms memory terms = _terms();
        terms.validationLock = keccak256(abi.encode(0));
        _newJob(terms);
        _expectError(ITrainingLedger.WrongKey.selector, uint256(terms.validationLock));
        ledger.disclose(job, 0);
    }

    function test_only_once() public {
        _bring(Phase.Disclosing);
        _disclose();
        _expectError(ITrainingLedger.AlreadyDisclosed.selector, uint256(KEY));
        ledger.disclose(job, KEY);
    }

    function test_an_unknown_job_is_refused(JobId unknown) public {
        vm.assume(JobId.unwrap(unknown) > 1);
        _expectUnknownJob(unknown);
        ledger.disclose(unknown, KEY);
    }
}
