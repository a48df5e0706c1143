// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ITrainingLedger, JobId, JobTerms, Phase, Round} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

contract PostBondTest is BaseTest {
    /* WHAT IT DOES */

    function test_postBond(uint96 bond, uint256 which) public {
        which %= 3;
        JobTerms memory terms = _terms();
        terms.bond = uint96(_bound(bond, terms.settlePenalty, type(uint96).max));
        _newJob(terms);
        uint256 before = address(ledger).balance;

        vm.deal(_coordinator(which), terms.bond);
        _expectEvent();
        emit ITrainingLedger.BondPosted(job, _coordinator(which), terms.bond);
        vm.prank(_coordinator(which));
        ledger.postBond{value: terms.bond}(job, termsHash);

        vm.assertEq(ledger.bondOf(job, _coordinator(which)), terms.bond);
        vm.assertEq(address(ledger).balance, before + terms.bond);
        vm.assertEq(ledger.creditOf(job, _coordinator(which)), 0);
        _assertPhase(Phase.Waiting);
    }

    function test_the_serving_coordinators_bond_opens_the_round() public {
        _join(0);
        _join(1);
        _assertPhase(Phase.Waiting);

        vm.deal(_coordinator(0), 5 ether);
        _expectEvent();
        emit ITrainingLedger.BondPosted(job, _coordinator(0), 5 ether);
        _expectEvent();
        emit ITrainingLedger.RoundOpened(
            job, 0, 0, uint32(START + COMMIT_WINDOW), uint32(START + COMMIT_WINDOW + REVEAL_WINDOW)
        );
        vm.prank(_coordinator(0));
        ledger.postBond{value: 5 ether}(job, termsHash);

        _assertPhase(Phase.Committing);
        vm.assertEq(_round().seated, 2);
    }

    function test_a_reserves_bond_opens_nothing() public {
        _join(0);
        _join(1);
        _postBond(1);
        _assertPhase(Phase.Waiting);
    }

    function test_with_too_few_seated_nothing_opens() public {
        _join(0);
        _postBond(0);
        _assertPhase(Phase.Waiting);
    }

    function test_a_round_that_is_open_stays_as_it_is(uint8 which) public {
        Phase phase = Phase(which % 9);
        vm.assume(phase != Phase.Waiting && phase != Phase.Over);
        _bring(phase);
        Round memory before = _round();
        _skip(7);
        _postBond(2);
        vm.assertEq(abi.encode(_round()), abi.encode(before));
    }

    function test_again_after_releasing() public {
        _postBond(0);
        vm.prank(_coordinator(0));
        ledger.releaseBond(job);
        _postBond(0);
        vm.assertEq(ledger.bondOf(job, _coordinator(0)), 5 ether);
        vm.assertEq(ledger.creditOf(job, _coordinator(0)), 5 ether);
    }

    function test_one_that_was_replaced_may_deposit_again_but_does_not_serve() public {
        _openToReveal(2);
        _postBond(1);
        _skip(SETTLE_WINDOW);
        ledger.replaceCoordinator(job);
        _postBond(0);
        vm.assertEq(_serving(), _coordinator(1));
    }

    /* WHAT IT REFUSES */

    function test_any_other_terms_are_refused(bytes32 other) public {
        vm.assume(other != termsHash);
        vm.deal(_coordinator(0), 5 ether);
        _expectError(ITrainingLedger.WrongTerms.selector, uint256(termsHash));
        vm.prank(_coordinator(0));
        ledger.postBond{value: 5 ether}(job, other);
    }

    function test_only_who_is_listed_may(address caller) public {
        vm.assume(caller != _coordinator(0) && caller != _coordinator(1) && caller != _coordinator(2));
        vm.deal(caller, 5 ether);
        _expectError(ITrainingLedger.NotCoordinator.selector, _coordinator(0));
        vm.prank(caller);
        ledger.postBond{value: 5 ether}(job, termsHash);
    }

    function test_only_once() public {
        _postBond(0);
        vm.deal(_coordinator(0), 5 ether);
        _expectError(ITrainingLedger.BondAlreadyPosted.selector, 5 ether);
        vm.prank(_coordinator(0));
        ledger.postBond{value: 5 ether}(job, termsHash);
    }

    function test_without_a_bond_there_is_nothing_to_post() public {
        JobTerms memory terms = _terms();
        (terms.bond, terms.settlePenalty) = (0, 0);
        _newJob(terms);
        _expectError(ITrainingLedger.BondAlreadyPosted.selector, 0);
        vm.prank(_coordinator(0));
        ledger.postBond(job, termsHash);
    }

    function test_any_value_but_the_bond_is_refused(uint256 value) public {
        value = _bound(value, 0, 10 ether);
        vm.assume(value != 5 ether);
        vm.deal(_coordinator(0), value);
        _expectError(ITrainingLedger.WrongValue.selector, 5 ether);
        vm.prank(_coordinator(0));
        ledger.postBond{value: value}(job, termsHash);
    }

    function test_not_when_the_job_is_over() public {
        _close();
        vm.deal(_coordinator(0), 5 ether);
        _expectWrongPhase(Phase.Over);
        vm.prank(_coordinator(0));
        ledger.postBond{value: 5 ether}(job, termsHash);
    }

    function test_an_unknown_job_is_refused(JobId unknown) public {
        vm.assume(JobId.unwrap(unknown) != JobId.unwrap(job));
        _expectUnknownJob(unknown);
        vm.prank(_coordinator(0));
        ledger.postBond(unknown, termsHash);
    }
}
