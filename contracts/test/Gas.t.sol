// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {JobTerms} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

/// @notice What each action costs as a whole transaction, with its 21,000 and its calldata, in the second round of a job:
/// the steady state. `snapshots/TrainingLedger.json` has the figures; the tests fail where they differ. The settlement that
/// ends a job costs more, since it also credits what is left of the pots.
/// forge-config: default.isolate = true
contract GasTest is BaseTest {
    function _terms() internal pure override returns (JobTerms memory terms) {
        terms = super._terms();
        terms.maxParticipants = 64;
        terms.rounds = 100;
    }

    /// forge-config: default.isolate = true
    function test_commit_and_reveal_cost_at_most_75_000() public {
        _firstRound(4);

        _commit(0);
        uint256 commit = _record("commit");
        _commit(1);
        _commit(2);
        _commit(3);
        uint256 lastCommit = _record("commit, the last one");
        _reveal(0);
        uint256 reveal = _record("reveal");
        _reveal(1);
        _reveal(2);
        _reveal(3);
        uint256 lastReveal = _record("reveal, the last one");

        vm.assertLe(commit + reveal, 75_000, "commit and reveal");
        vm.snapshotValue("TrainingLedger", "commit and reveal", commit + reveal);
        vm.snapshotValue("TrainingLedger", "commit and reveal, both the last", lastCommit + lastReveal);
    }

    /// forge-config: default.isolate = true
    function test_masked_commit_and_unmask_cost_at_most_76_000() public {
        JobTerms memory terms = _terms();
        (terms.masked, terms.minParticipants) = (true, 3);
        _newJob(terms);
        _open(4);
        _playMasked(3);

        _commitMasked(0);
        uint256 commit = _record("commitMasked");
        _commitMasked(1);
        _commitMasked(2);
        _commitMasked(3);
        uint256 lastCommit = _record("commitMasked, the last one");
        _count(15);
        _unmask(0);
        uint256 unmask = _record("unmask");
        _unmask(1);
        _unmask(2);
        _unmask(3);
        uint256 lastUnmask = _record("unmask, the last one");

        vm.assertLe(lastCommit + lastUnmask, 76_000, "commitMasked and unmask");
        vm.snapshotValue("TrainingLedger", "commitMasked and unmask", commit + unmask);
        vm.snapshotValue("TrainingLedger", "commitMasked and unmask, both the last", lastCommit + lastUnmask);
    }

    /// @dev Who has missed an attempt pays for forgetting it.
    /// forge-config: default.isolate = true
    function test_masked_commit_and_unmask_after_a_miss_cost_at_most_76_000() public {
        JobTerms memory terms = _terms();
        (terms.masked, terms.minParticipants) = (true, 3);
        _newJob(terms);
        _open(4);
        _skip(COMMIT_WINDOW);
        ledger.restartRound(job);
        _commitMasked(0);
        uint256 commit = _record("commitMasked");
        _commitMasked(1);
        _commitMasked(2);
        _commitMasked(3);
        _count(15);
        _unmask(1);
        vm.assertLe(commit + _record("unmask, after a miss"), 76_000, "commitMasked and unmask");
    }

    /// forge-config: default.isolate = true
    function test_a_count_costs_the_same_for_any_number_and_a_masked_settlement_grows_as_an_open_one() public {
        uint256 few = _measureMasked(4, "count, 04 counted", "settle, masked, 04 accepted");
        uint256 many = _measureMasked(64, "count, 64 counted", "settle, masked, 64 accepted");
        vm.assertLe(many, few + 200, "a bitmap is a word");
    }

    function _measureMasked(uint256 n, string memory counting, string memory settling) internal returns (uint256 count) {
        JobTerms memory terms = _terms();
        (terms.masked, terms.minParticipants) = (true, 3);
        _newJob(terms);
        _open(n);
        _playMasked(3);
        _commitMaskedAll(n);
        _count(_seats(n));
        count = _record(counting);
        _unmaskAll(n);
        _settleAll(n);
        vm.assertLe(_record(settling), 80_000 + 8_000 * n, settling);
    }

    /// forge-config: default.isolate = true
    function test_settle_costs_at_most_80_000_and_8_000_per_accepted_participant_1() public {
        _measureSettle(1, "settle, 01 accepted");
    }

    /// forge-config: default.isolate = true
    function test_settle_costs_at_most_80_000_and_8_000_per_accepted_participant_4() public {
        _measureSettle(4, "settle, 04 accepted");
    }

    /// forge-config: default.isolate = true
    function test_settle_costs_at_most_80_000_and_8_000_per_accepted_participant_10() public {
        _measureSettle(10, "settle, 10 accepted");
    }

    /// forge-config: default.isolate = true
    function test_settle_costs_at_most_80_000_and_8_000_per_accepted_participant_64() public {
        _measureSettle(64, "settle, 64 accepted");
    }

    /// @dev The reward does not divide, so that the sponsor is credited as well.
    /// forge-config: default.isolate = true
    function test_the_settlement_that_ends_the_job_costs_at_most_30_000_more() public {
        JobTerms memory terms = _terms();
        (terms.rounds, terms.reward) = (2, 9 ether + 1);
        _newJob(terms);
        _settleSecondRound(10);
        vm.assertLe(_record("settle, 10 accepted, the job ends"), 80_000 + 8_000 * 10 + 30_000, "settle, the last round");
    }

    /// @dev It does not end a job whose validation set is withheld: it says by when the key is due.
    /// forge-config: default.isolate = true
    function test_the_last_settlement_of_a_withheld_job_costs_no_more() public {
        JobTerms memory terms = _terms();
        (terms.rounds, terms.reward, terms.validationLock) = (2, 9 ether + 1, LOCK);
        _newJob(terms);
        _measureSettle(10, "settle, 10 accepted, the key is due");
    }

    /// forge-config: default.isolate = true
    function test_the_rest_is_as_recorded() public {
        _createJob(_terms());
        _record("createJob");
        _postBond(0);
        _record("postBond");
        _join(0);
        _record("join, the first one");
        _join(1);
        _join(2);
        _record("join");
        _commitAll(3);
        _revealAll(3);
        _settleAll(3);
        _withdraw(_participant(0));
        _record("withdraw");
        _leave(1);
        _record("leave");
        vm.snapshotValue("TrainingLedger", "code size", address(ledger).code.length);
    }

    function _measureSettle(uint256 accepted, string memory name) internal {
        _settleSecondRound(accepted);
        vm.assertLe(_record(name), 80_000 + 8_000 * accepted, name);
    }

    function _settleSecondRound(uint256 accepted) internal {
        uint256 seated = accepted < 4 ? 4 : accepted;
        _firstRound(seated);
        _commitAll(seated);
        _revealAll(seated);
        _settleAll(accepted);
    }

    function _firstRound(uint256 n) internal {
        _open(n);
        // Joining one after the other opened the round at the second.
        _commitAll(n);
        _revealAll(n);
        _settleAll(n);
    }

    /// @dev Writes down what the last call cost, less its refund.
    function _record(string memory name) internal returns (uint256 gas) {
        gas = vm.lastCallGas().gasTotalUsed;
        vm.snapshotValue("TrainingLedger", name, gas);
    }
}
