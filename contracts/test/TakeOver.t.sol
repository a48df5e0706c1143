// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ITrainingLedger, JobId, Phase} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

contract TakeOverTest is BaseTest {
    /* WHAT IT DOES */

    function test_a_successor_takes_over_where_only_a_bond_is_missing(uint24 late) public {
        _waitForBond(1);
        _skip(SETTLE_WINDOW + uint256(late));
        uint32 commitEnd = uint32(block.timestamp + COMMIT_WINDOW);
        _expectEvent();
        emit ITrainingLedger.CoordinatorReplaced(job, 0, _coordinator(0), _coordinator(1), 0, 0);
        _expectEvent();
        emit ITrainingLedger.RoundOpened(job, 0, 0, commitEnd, commitEnd + REVEAL_WINDOW);
        _takeOver(1);

        _assertPhase(Phase.Committing);
        vm.assertEq(_serving(), _coordinator(1));
        vm.assertEq(ledger.bondOf(job, _coordinator(1)), 5 ether);
        vm.assertEq(ledger.creditOf(job, _coordinator(0)), 0);
        vm.assertEq(_state().escrow, 27 ether);
    }

    function test_who_has_taken_its_bond_home_is_replaced_at_once() public {
        _postBond(1);
        _skip(SETTLE_WINDOW);
        _starve();
        vm.prank(_coordinator(0));
        ledger.releaseBond(job);
        _expectWrongPhase(Phase.Starved);
        _takeOver(1);
        ledger.restartRound(job);
        _assertPhase(Phase.Waiting);
        _takeOver(1);
        vm.assertEq(_serving(), _coordinator(1));
        vm.assertEq(ledger.creditOf(job, _coordinator(0)), 5 ether, "it owed nothing");
        vm.assertEq(_round().attempt, 1);
        _playRound(3);
    }

    function test_who_took_over_is_held_to_its_own_deadline() public {
        _waitForBond(1);
        _skip(SETTLE_WINDOW);
        _takeOver(1);
        _commitAll(2);
        _revealAll(2);
        _skip(SETTLE_WINDOW);
        _expectEvent();
        emit ITrainingLedger.CoordinatorReplaced(job, 0, _coordinator(1), address(0), 2 ether, 0);
        ledger.replaceCoordinator(job);
    }

    /* WHAT IT REFUSES */

    function test_the_serving_one_has_a_settle_window_to_post_its_bond() public {
        _waitForBond(1);
        _skip(SETTLE_WINDOW - 1);
        _expectTooEarly(START + SETTLE_WINDOW);
        _takeOver(1);
        _postBond(0);
        _assertPhase(Phase.Committing);
        _skip(1);
        _expectWrongPhase(Phase.Committing);
        _takeOver(1);
    }

    function test_a_bond_that_is_posted_again_begins_a_new_window() public {
        _waitForBond(1);
        _skip(SETTLE_WINDOW);
        vm.prank(_coordinator(1));
        ledger.releaseBond(job);
        _postBond(1);
        _expectTooEarly(START + 2 * SETTLE_WINDOW);
        _takeOver(1);
        _skip(SETTLE_WINDOW);
        _takeOver(1);
        vm.assertEq(_serving(), _coordinator(1));
    }

    function test_nobody_overtakes_the_next_one_with_a_bond() public {
        _waitForBond(2);
        _skip(SETTLE_WINDOW - 1);
        _postBond(1);
        _skip(1);
        _expectError(ITrainingLedger.NotCoordinator.selector, _coordinator(1));
        _takeOver(2);
        _skip(SETTLE_WINDOW - 1);
        _takeOver(1);
        vm.assertEq(_serving(), _coordinator(1));
    }

    function test_not_while_it_waits_for_participants() public {
        _postBond(1);
        _join(0);
        _skip(SETTLE_WINDOW);
        _expectWrongPhase(Phase.Waiting);
        _takeOver(1);
    }

    function test_not_where_nobody_has_a_bond() public {
        _join(0);
        _join(1);
        _skip(SETTLE_WINDOW);
        _expectError(ITrainingLedger.NotCoordinator.selector, address(0));
        _takeOver(1);
    }

    function test_nobody_is_made_to_take_over(address caller) public {
        vm.assume(caller != _coordinator(1));
        _waitForBond(1);
        _skip(SETTLE_WINDOW);
        _expectError(ITrainingLedger.NotCoordinator.selector, _coordinator(1));
        vm.prank(caller);
        ledger.takeOver(job);
    }

    function test_only_in_waiting(uint8 which) public {
        Phase phase = Phase(which % 9);
        vm.assume(phase != Phase.Waiting);
        if (phase != Phase.Over) _postBond(1);
        _bring(phase);
        _skip(phase == Phase.Over ? SETTLE_WINDOW : 0);
        _expectWrongPhase(phase);
        _takeOver(1);
    }

    function test_an_unknown_job_is_refused(JobId unknown) public {
        vm.assume(JobId.unwrap(unknown) != JobId.unwrap(job));
        _expectUnknownJob(unknown);
        ledger.takeOver(unknown);
    }

    function _expectTooEarly(uint256 from) internal {
        _expectError(ITrainingLedger.TooEarly.selector, from);
    }

    function _takeOver(uint256 successor) internal {
        vm.prank(_coordinator(successor));
        ledger.takeOver(job);
    }

    /// @dev Enough are seated, and it waits for a bond; not the serving coordinator's, but this one's is in deposit.
    function _waitForBond(uint256 successor) internal {
        _join(0);
        _join(1);
        _postBond(successor);
        _assertPhase(Phase.Waiting);
    }
}
