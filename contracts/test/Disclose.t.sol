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

    /* MASKED ROUNDS */

    function test_a_masked_job_ends_with_its_key(bool late) public {
        _openToMaskedDisclosing(1);
        if (late) _skip(SETTLE_WINDOW);
        _disclose();
        _assertPhase(Phase.Over);
        for (uint256 i; i < 2; i++) vm.assertEq(_credit(i), 4.7 ether);
    }

    /// @dev Neither who was counted and stayed silent, nor who came too late to mask.
    function test_who_has_unmasked_inherits_the_bond_of_one_that_keeps_the_key(bool left) public {
        _openToMaskedDisclosing(1);
        vm.assertEq(_round().revealed, 3);
        if (left) _leave(1);
        _skip(SETTLE_WINDOW);
        ledger.replaceCoordinator(job);
        _assertPhase(Phase.Over);
        vm.assertEq(_credit(0), 4.7 ether + (left ? 5 ether : 2.5 ether));
        vm.assertEq(_credit(1), 4.7 ether + (left ? 1 ether : 2.5 ether));
        vm.assertEq(_member(2).stake + _credit(2), 0.6 ether);
        vm.assertEq(_member(3).stake + _credit(3), 1 ether);
    }

    /// @dev The first round is settled, and so the key is wanted, when the second one is void and the sponsor closes the job.
    function test_after_a_void_count_the_key_is_wanted_all_the_same() public {
        _openToMaskedDisclosing(2);
        _commitMaskedAll(4);
        _count(1);
        _close();
        _assertPhase(Phase.Disclosing);
        vm.assertEq(_round().revealed, 0, "nobody unmasked: all who sit are heirs");
        _skip(SETTLE_WINDOW);
        ledger.replaceCoordinator(job);
        _assertPhase(Phase.Over);
        for (uint256 i; i < 4; i++) vm.assertEq(_credit(i), (i < 2 ? 4.7 ether : 0) + 1.25 ether);
    }

    /// @dev Nobody counts, and nobody is left: those who committed have the reward, and the whole bond.
    function test_with_nobody_left_to_count_the_key_costs_the_whole_bond() public {
        _openToMaskedDisclosing(2);
        for (uint256 i; i < 3; i++) _commitMasked(i);
        _skip(COMMIT_WINDOW + SETTLE_WINDOW);
        _expectError(ITrainingLedger.TooFewCounted.selector, 3);
        vm.prank(_coordinator(0));
        ledger.count(job, 1, 0, 0);
        ledger.replaceCoordinator(job);
        _assertPhase(Phase.Over);
        for (uint256 i; i < 3; i++) vm.assertEq(_credit(i), (i < 2 ? 4.7 ether : 0) + uint256(14 ether) / 3);
        vm.assertEq(_member(3).misses, 1);
        vm.assertEq(_credit(3), 0);
    }

    /// @dev A masked job whose validation set is withheld, with four seats: the last came late to the first round, which is
    /// settled, and of which seat 2 was counted and did not unmask.
    function _openToMaskedDisclosing(uint24 rounds) internal {
        JobTerms memory terms = _masked();
        (terms.rounds, terms.maxParticipants, terms.validationLock) = (rounds, 4, LOCK);
        _newJob(terms);
        _open(4);
        _commitMaskedAll(3);
        _count(7);
        _unmask(0);
        _unmask(1);
        _skip(REVEAL_WINDOW);
        _settleAll(2);
        _assertPhase(rounds == 1 ? Phase.Disclosing : Phase.Committing);
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
