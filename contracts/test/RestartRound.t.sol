// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Departure, ITrainingLedger, JobId, Outcome, Phase, Round, Stage} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

contract RestartRoundTest is BaseTest {
    /* WHAT IT DOES */

    function test_restartRound(address caller, uint24 late) public {
        _openAndCommit(3);
        _skip(REVEAL_WINDOW + uint256(late));
        uint32 commitEnd = uint32(block.timestamp + COMMIT_WINDOW);

        _expectEvent();
        emit ITrainingLedger.RoundStarved(job, 0, 0);
        _expectEvent();
        emit ITrainingLedger.RoundOpened(job, 0, 1, commitEnd, commitEnd + REVEAL_WINDOW);
        vm.prank(caller);
        ledger.restartRound(job);

        Round memory expected;
        (expected.attempt, expected.stage, expected.seated, expected.least) = (1, Stage.Open, 3, 2);
        (expected.commitEnd, expected.revealEnd) = (commitEnd, commitEnd + REVEAL_WINDOW);
        vm.assertEq(abi.encode(_round()), abi.encode(expected), "an empty attempt at the same round");
        vm.assertEq(_state().escrow, 27 ether);
        for (uint256 i; i < 3; i++) {
            vm.assertEq(_member(i).stake, 1 ether, "where nobody revealed, all are alike");
            vm.assertEq(_member(i).misses, 0, "whoever commits has missed nothing");
        }
    }

    /// @dev With too few commitments nobody can reveal, so that nobody is to blame for not revealing.
    function test_too_few_commitments_cost_nobody_anything() public {
        _starve();
        ledger.restartRound(job);
        vm.assertEq(_member(0).stake, 1 ether, "committed, and could not reveal");
        vm.assertEq(_member(1).stake, 1 ether);
        vm.assertEq(_state().escrow, 27 ether);
    }

    function test_who_leaves_cannot_make_those_who_committed_pay() public {
        _open(2);
        _commit(0);
        _leave(1);
        _skip(COMMIT_WINDOW);
        _assertPhase(Phase.Starved);
        ledger.restartRound(job);
        _assertPhase(Phase.Waiting);
        _leave(0);
        vm.assertEq(_credit(0), 1 ether);
    }

    function test_whoever_did_not_commit_has_missed_the_attempt() public {
        _starve();
        ledger.restartRound(job);
        vm.assertEq(_member(0).misses, 0);
        vm.assertEq(_member(1).misses, 1);
        vm.assertEq(_member(2).misses, 1);
        _commit(0);
        _skip(COMMIT_WINDOW);

        _expectEvent();
        emit ITrainingLedger.Left(job, _participant(1), 1, Departure.Missing, 1 ether);
        _expectEvent();
        emit ITrainingLedger.Left(job, _participant(2), 2, Departure.Missing, 1 ether);
        _expectEvent();
        emit ITrainingLedger.RoundStarved(job, 0, 1);
        ledger.restartRound(job);
        vm.assertEq(_round().seated, 1);
    }

    function test_with_too_few_seated_it_waits() public {
        _open(2);
        _leave(0);
        _skip(COMMIT_WINDOW);
        vm.recordLogs();
        ledger.restartRound(job);
        _assertLogCount(1);
        _assertPhase(Phase.Waiting);

        vm.deal(_participant(0), 1 ether);
        _expectEvent();
        emit ITrainingLedger.Joined(job, _participant(0), 0, 5, NO_KEY);
        _expectEvent();
        emit ITrainingLedger.RoundOpened(
            job, 0, 1, uint32(block.timestamp + COMMIT_WINDOW), uint32(block.timestamp + COMMIT_WINDOW + REVEAL_WINDOW)
        );
        vm.prank(_participant(0));
        ledger.join{value: 1 ether}(job, termsHash, 5, _noProof(), NO_KEY);
    }

    function test_after_65_535_attempts_the_job_is_over() public {
        _starve();
        _setAttempt(type(uint16).max);
        _expectEvent();
        emit ITrainingLedger.RoundStarved(job, 0, type(uint16).max);
        _expectEvent();
        emit ITrainingLedger.JobEnded(job, Outcome.Abandoned, 27 ether);
        ledger.restartRound(job);
        _assertPhase(Phase.Over);
        vm.assertEq(ledger.creditOf(job, sponsor), 27 ether);
        for (uint256 i; i < 3; i++) {
            _leave(i);
            vm.assertEq(_credit(i), 1 ether);
        }
    }

    function test_the_attempt_before_is_not_the_last() public {
        _starve();
        _setAttempt(type(uint16).max - 1);
        ledger.restartRound(job);
        _assertPhase(Phase.Committing);
        vm.assertEq(_round().attempt, type(uint16).max);
    }

    /* MASKED */

    function test_a_masked_round_opens_again_with_who_is_seated_now() public {
        _newJob(_masked());
        _open(3);
        _commitMasked(0);
        _join(3);
        _skip(COMMIT_WINDOW);
        ledger.restartRound(job);
        vm.assertEq(_state().cohort, 15);
        vm.assertEq(_round().committed, 0);
        vm.assertEq(_round().revealEnd, _round().commitEnd);
    }

    /* WHAT IT REFUSES */

    function test_only_in_starved(uint8 which) public {
        Phase phase = Phase(which % 9);
        vm.assume(phase != Phase.Starved);
        _bring(phase);
        _expectWrongPhase(phase);
        ledger.restartRound(job);
    }

    function test_not_in_the_last_second_of_committing() public {
        _open(3);
        _commit(0);
        _skip(COMMIT_WINDOW - 1);
        _expectWrongPhase(Phase.Committing);
        ledger.restartRound(job);
        _skip(1);
        ledger.restartRound(job);
    }

    function test_not_in_the_last_second_of_revealing() public {
        _openAndCommit(2);
        _skip(REVEAL_WINDOW - 1);
        _expectWrongPhase(Phase.Revealing);
        ledger.restartRound(job);
        _skip(1);
        ledger.restartRound(job);
    }

    function test_an_unknown_job_is_refused(JobId unknown) public {
        vm.assume(JobId.unwrap(unknown) != JobId.unwrap(job));
        _expectUnknownJob(unknown);
        ledger.restartRound(unknown);
    }

    /// @dev Restarting so often would take long. The round's word has the attempt above the 24 bits of its number, and
    /// the 64 bits in its top are of those who revealed.
    function _setAttempt(uint16 attempt) internal {
        vm.record();
        Round memory before = _round();
        (bytes32[] memory reads,) = vm.accesses(address(ledger));
        bytes32 slot = reads[reads.length - 1];
        uint256 word = uint256(vm.load(address(ledger), slot)) & ~(uint256(type(uint16).max) << 24);
        vm.store(address(ledger), slot, bytes32(word | uint256(attempt) << 24));
        before.attempt = attempt;
        vm.assertEq(abi.encode(_round()), abi.encode(before));
    }
}
