// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ITrainingLedger, JobId, Phase} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

contract ViewsTest is BaseTest {
    /* PHASES */

    function test_without_a_round_no_time_is_anything_but_waiting(uint256 timestamp) public {
        _join(0);
        vm.assertEq(_at(timestamp), uint256(Phase.Waiting));
    }

    function test_over_is_over_at_any_time(uint256 timestamp) public {
        _bring(Phase.Over);
        vm.assertEq(_at(timestamp), uint256(Phase.Over));
    }

    function test_an_open_round_starves_without_commitments(uint256 timestamp) public {
        _open(3);
        _commit(0);
        bool open = timestamp < START + COMMIT_WINDOW;
        vm.assertEq(_at(timestamp), uint256(open ? Phase.Committing : Phase.Starved));
    }

    function test_one_reveal_is_enough_to_settle(uint256 timestamp) public {
        _openAndCommit(3);
        _reveal(1);
        timestamp = START + REVEAL_WINDOW + timestamp % 1000;
        bool due = timestamp < START + REVEAL_WINDOW + SETTLE_WINDOW;
        vm.assertEq(_at(timestamp), uint256(due ? Phase.Settling : Phase.Overdue));
    }

    function test_with_commitments_it_starves_without_reveals(uint256 timestamp) public {
        _open(3);
        _commitAll(2);
        Phase expected = Phase.Starved;
        if (timestamp < START + COMMIT_WINDOW) expected = Phase.Committing;
        else if (timestamp < START + COMMIT_WINDOW + REVEAL_WINDOW) expected = Phase.Revealing;
        vm.assertEq(_at(timestamp), uint256(expected));
    }

    function test_with_reveals_it_is_to_be_settled(uint256 timestamp) public {
        _openAndCommit(3);
        _revealAll(2);
        timestamp = START + timestamp % 1000;
        Phase expected = Phase.Overdue;
        if (timestamp < START + REVEAL_WINDOW) expected = Phase.Revealing;
        else if (timestamp < START + REVEAL_WINDOW + SETTLE_WINDOW) expected = Phase.Settling;
        vm.assertEq(_at(timestamp), uint256(expected));
    }

    function test_each_deadline_to_the_second() public {
        _open(3);
        _commitAll(2);
        uint256 end = START + COMMIT_WINDOW;
        vm.assertEq(_at(end - 1), uint256(Phase.Committing));
        vm.assertEq(_at(end), uint256(Phase.Revealing));
        _commit(2);
        end = START + REVEAL_WINDOW;
        vm.assertEq(_at(START), uint256(Phase.Revealing));
        vm.assertEq(_at(end - 1), uint256(Phase.Revealing));
        vm.assertEq(_at(end), uint256(Phase.Starved));
        _revealAll(2);
        vm.assertEq(_at(end - 1), uint256(Phase.Revealing));
        vm.assertEq(_at(end), uint256(Phase.Settling));
        _reveal(2);
        vm.assertEq(_at(START), uint256(Phase.Settling));
        vm.assertEq(_at(START + SETTLE_WINDOW - 1), uint256(Phase.Settling));
        vm.assertEq(_at(START + SETTLE_WINDOW), uint256(Phase.Overdue));
        vm.assertEq(_at(type(uint256).max), uint256(Phase.Overdue));
    }

    function test_a_key_is_due_until_it_is_overdue(uint256 timestamp) public {
        _bring(Phase.Disclosing);
        bool due = timestamp < START + SETTLE_WINDOW;
        vm.assertEq(_at(timestamp), uint256(due ? Phase.Disclosing : Phase.Overdue));
    }

    function test_the_phase_that_is_foretold_is_the_one_that_comes(uint8 which, uint256 later) public {
        _bring(Phase(which % 9));
        later %= 1000;
        uint256 foretold = _at(block.timestamp + later);
        _skip(later);
        vm.assertEq(uint256(_phase()), foretold);
    }

    /* COMMITMENTS */

    function test_commitmentFor(
        uint64 chain,
        JobId any,
        uint24 round,
        address participant,
        bytes32 digest,
        bytes32 root,
        bytes32 salt
    ) public {
        vm.chainId(chain);
        vm.assertEq(
            ledger.commitmentFor(any, round, participant, digest, root, salt),
            bytes30(keccak256(
                abi.encode(
                    uint256(chain),
                    address(ledger),
                    JobId.unwrap(any),
                    uint256(round),
                    uint256(uint160(participant)),
                    digest,
                    root,
                    salt
                )
            ))
        );
    }

    function test_each_contract_has_commitments_of_its_own() public {
        bytes30 here = _commitment(0, 0);
        ledger = _deploy();
        vm.assertTrue(here != _commitment(0, 0));
    }

    /* LOOK-UP */

    function test_jobs_are_numbered_from_one() public {
        vm.assertEq(JobId.unwrap(job), 1);
        vm.assertEq(ledger.jobCount(), 1);
        vm.assertEq(_deploy().jobCount(), 0);
    }

    function test_who_is_nobody_has_nothing(address nobody, uint8 seat) public view {
        vm.assertEq(ledger.creditOf(job, nobody), 0);
        vm.assertEq(ledger.bondOf(job, nobody), 0);
        vm.assertEq(ledger.memberOf(job, nobody).seatPlusOne, 0);
        vm.assertEq(ledger.commitmentOf(job, nobody), bytes30(0));
        vm.assertEq(ledger.participantAt(job, seat % 64), address(0));
    }

    function test_there_is_no_sixty_fifth_seat(uint8 seat) public {
        vm.assume(seat >= 64);
        vm.expectRevert();
        ledger.participantAt(job, seat);
    }

    function test_every_view_refuses_an_unknown_job(JobId unknown, address account, uint8 seat) public {
        vm.assume(JobId.unwrap(unknown) != JobId.unwrap(job));
        _expectUnknownJob(unknown);
        ledger.termsOf(unknown);
        _expectUnknownJob(unknown);
        ledger.stateOf(unknown);
        _expectUnknownJob(unknown);
        ledger.roundOf(unknown);
        _expectUnknownJob(unknown);
        ledger.phaseAt(unknown, block.timestamp);
        _expectUnknownJob(unknown);
        ledger.coordinatorsOf(unknown);
        _expectUnknownJob(unknown);
        ledger.bondOf(unknown, account);
        _expectUnknownJob(unknown);
        ledger.memberOf(unknown, account);
        _expectUnknownJob(unknown);
        ledger.participantAt(unknown, seat);
        _expectUnknownJob(unknown);
        ledger.commitmentOf(unknown, account);
        _expectUnknownJob(unknown);
        ledger.creditOf(unknown, account);
    }

    function _at(uint256 timestamp) internal view returns (uint256) {
        return uint256(ledger.phaseAt(job, timestamp));
    }
}
