// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ITrainingLedger, JobId, JobTerms, Member, Phase, Round} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

contract JoinTest is BaseTest {
    /* WHAT IT DOES */

    function test_join(address caller, uint32 samples, uint96 stake) public {
        vm.assume(caller != address(0) && caller != address(ledger) && samples != 0);
        JobTerms memory terms = _terms();
        terms.stake = uint96(_bound(stake, terms.revealPenalty, type(uint96).max));
        _newJob(terms);
        uint256 before = address(ledger).balance;

        vm.deal(caller, terms.stake);
        _expectEvent();
        emit ITrainingLedger.Joined(job, caller, 0, samples, NO_KEY);
        vm.prank(caller);
        ledger.join{value: terms.stake}(job, termsHash, samples, _noProof(), NO_KEY);

        Member memory expected = Member({seatPlusOne: 1, misses: 0, excused: false, samples: samples, stake: terms.stake});
        vm.assertEq(abi.encode(ledger.memberOf(job, caller)), abi.encode(expected));
        vm.assertEq(ledger.participantAt(job, 0), caller);
        vm.assertEq(_state().seats, 1);
        vm.assertEq(_round().seated, 1);
        vm.assertEq(address(ledger).balance, before + terms.stake);
        vm.assertEq(ledger.creditOf(job, caller), 0);
        _assertPhase(Phase.Waiting);
    }

    function test_the_one_that_was_missing_opens_the_round() public {
        _postBond(0);
        _join(0);
        _assertPhase(Phase.Waiting);
        vm.deal(_participant(1), 1 ether);
        _expectEvent();
        emit ITrainingLedger.Joined(job, _participant(1), 1, 5, NO_KEY);
        _expectEvent();
        emit ITrainingLedger.RoundOpened(
            job, 0, 0, uint32(START + COMMIT_WINDOW), uint32(START + COMMIT_WINDOW + REVEAL_WINDOW)
        );
        vm.prank(_participant(1));
        ledger.join{value: 1 ether}(job, termsHash, 5, _noProof(), NO_KEY);
        _assertPhase(Phase.Committing);
    }

    function test_without_the_coordinators_bond_it_stays_closed() public {
        for (uint256 i; i < 4; i++) _join(i);
        _assertPhase(Phase.Waiting);
    }

    function test_one_seat_is_enough_where_the_terms_say_so() public {
        JobTerms memory terms = _terms();
        (terms.minParticipants, terms.maxParticipants) = (1, 1);
        _newJob(terms);
        _open(1);
        _playRound(1);
        vm.assertEq(_credit(0), 9 ether);
        _expectFull(1);
    }

    function test_the_stake_may_be_zero() public {
        JobTerms memory terms = _terms();
        (terms.stake, terms.revealPenalty) = (0, 0);
        _newJob(terms);
        _openAndCommit(3);
        _reveal(0);
        _reveal(1);
        _skip(REVEAL_WINDOW);
        _settleAll(2);
        vm.assertEq(_member(2).seatPlusOne, 3, "a penalty of nothing exhausts nothing");
        _leave(2);
        vm.assertEq(_credit(2), 0);
    }

    function test_a_round_that_is_open_stays_as_it_is_but_for_the_seat(uint8 which) public {
        Phase phase = Phase(which % 9);
        vm.assume(phase != Phase.Waiting && phase != Phase.Disclosing && phase != Phase.Over);
        _bring(phase);
        Round memory expected = _round();
        expected.seated = 4;
        _skip(7);
        _join(3);
        vm.assertEq(abi.encode(_round()), abi.encode(expected));
        vm.assertEq(_state().seats, 15);
    }

    function test_in_committing_it_takes_part_at_once() public {
        _open(2);
        _skip(COMMIT_WINDOW - 1);
        _join(2);
        _commit(2);
        vm.assertEq(_round().committed, 4);
    }

    function test_who_has_not_the_whole_window_to_commit_is_excused_once(uint32 late, bool all) public {
        _open(3);
        vm.assertFalse(_member(2).excused);
        if (all) _commitAll(3);
        late = late % (2 * COMMIT_WINDOW);
        _skip(late);
        _join(3);
        vm.assertTrue(_member(3).excused == (all || late != 0));
    }

    function test_who_comes_after_committing_closed_early_is_late() public {
        _openAndCommit(2);
        _join(2);
        _expectWrongPhase(Phase.Revealing);
        vm.prank(_participant(2));
        ledger.commit(job, 0, 0, "too late");
    }

    function test_the_lowest_free_seat_is_taken(uint8 seats) public {
        JobTerms memory terms = _terms();
        terms.maxParticipants = 8;
        _newJob(terms);
        for (uint256 i; i < 8; i++) _join(i);
        uint8 lowest = 8;
        for (uint8 i; i < 8; i++) {
            if (seats >> i & 1 == 0) continue;
            _leave(i);
            if (i < lowest) lowest = i;
        }
        vm.assume(seats != 0);
        _join(9);
        vm.assertEq(ledger.participantAt(job, lowest), _participant(9));
        vm.assertEq(_member(9).seatPlusOne, lowest + 1);
        vm.assertEq(_state().seats, uint64(255) & ~uint64(seats) | uint64(1) << lowest);
    }

    function test_the_sixty_fourth_seat_is_the_last() public {
        JobTerms memory terms = _terms();
        terms.maxParticipants = 64;
        _newJob(terms);
        for (uint256 i; i < 64; i++) {
            _join(i);
            vm.assertEq(ledger.participantAt(job, uint8(i)), _participant(i));
        }
        vm.assertEq(_state().seats, type(uint64).max);
        vm.assertEq(_round().seated, 64);
        _expectFull(64);
    }

    function test_who_comes_back_finds_its_seat_taken_and_its_money_untouched() public {
        _open(2);
        _playRound(2);
        _leave(0);
        vm.assertEq(_credit(0), 5.5 ether);
        _join(2);
        vm.assertEq(ledger.participantAt(job, 0), _participant(2));
        _join(0);

        vm.assertEq(_member(0).seatPlusOne, 3);
        vm.assertEq(_credit(0), 5.5 ether, "what it had");
        vm.assertEq(_credit(2), 0, "earnings do not stay with the seat");
        _commitAll(3);
        _revealAll(3);
        _settle(4, _score(1));
        vm.assertEq(_credit(0), 14.5 ether, "credits and seat together");
        vm.assertEq(_credit(2), 0);
        vm.assertEq(_withdraw(_participant(0)), 14.5 ether);
    }

    function test_who_comes_back_has_missed_what_it_missed_and_is_not_excused() public {
        _open(3);
        _commitAll(2);
        _skip(COMMIT_WINDOW);
        _revealAll(2);
        _settleAll(2);
        vm.assertEq(_member(2).misses, 1);
        _leave(2);
        _join(2);
        vm.assertEq(_member(2).misses, 1);
        vm.assertFalse(_member(2).excused);
        _commit(2);
        vm.assertEq(_member(2).misses, 0);
    }

    function test_who_is_on_the_list_is_admitted(uint8 which) public {
        which %= 3;
        JobTerms memory terms = _terms();
        terms.admission = _admission();
        _newJob(terms);
        vm.deal(_participant(which), 1 ether);
        vm.prank(_participant(which));
        ledger.join{value: 1 ether}(job, termsHash, 5, _proof(which), NO_KEY);
        vm.assertEq(_round().seated, 1);
    }

    function test_sponsor_and_coordinator_may_take_part() public {
        vm.deal(sponsor, 1 ether);
        vm.prank(sponsor);
        ledger.join{value: 1 ether}(job, termsHash, 1, _noProof(), NO_KEY);
        vm.deal(_coordinator(0), 1 ether);
        vm.prank(_coordinator(0));
        ledger.join{value: 1 ether}(job, termsHash, 1, _noProof(), NO_KEY);
        vm.assertEq(_round().seated, 2);
    }

    function test_the_key_of_a_masked_job_is_told(bytes32 key) public {
        vm.assume(key != 0);
        _newJob(_masked());
        vm.deal(stranger, 1 ether);
        _expectEvent();
        emit ITrainingLedger.Joined(job, stranger, 0, 5, key);
        vm.prank(stranger);
        ledger.join{value: 1 ether}(job, termsHash, 5, _noProof(), key);
    }

    function test_into_a_masked_attempt_whoever_comes_is_excused(bool counted, bool cameBefore) public {
        JobTerms memory terms = _masked();
        terms.missLimit = 1;
        _newJob(terms);
        _open(3);
        if (cameBefore) {
            _join(3);
            _commitMaskedAll(3);
            _count(7);
            _unmaskAll(3);
            _leave(3);
            _settleAll(3);
        }
        _commitMaskedAll(3);
        if (counted) _count(7);
        _join(3);
        vm.assertTrue(_member(3).excused, "it cannot commit");
        if (!counted) _count(7);
        _unmaskAll(3);
        _settleAll(3);
        vm.assertEq(_member(3).seatPlusOne, 4);
        vm.assertFalse(_member(3).excused, "once");
        _commitMasked(3);
    }

    /// @dev It was put out in one attempt and comes again in the next, as after an outage.
    function test_who_lost_its_seat_in_a_masked_job_can_come_again() public {
        JobTerms memory terms = _masked();
        (terms.rounds, terms.missLimit) = (9, 1);
        _newJob(terms);
        _open(3);
        _join(3);
        _playMasked(3);
        _commitMaskedAll(3);
        _skip(COMMIT_WINDOW);
        _count(7);
        _unmaskAll(3);
        _settleAll(3);
        vm.assertEq(_member(3).seatPlusOne, 0, "it was idle");
        _join(3);
        vm.assertTrue(_member(3).excused);
        _playMasked(3);
        vm.assertEq(_member(3).seatPlusOne, 4);
        _commitMasked(3);
    }

    function test_nobody_is_excused_who_came_when_no_round_was_open() public {
        _newJob(_masked());
        _join(0);
        _leave(0);
        _join(0);
        vm.assertFalse(_member(0).excused);
    }

    /* WHAT IT REFUSES */

    function test_a_key_belongs_to_a_masked_job(bytes32 key) public {
        vm.assume(key != 0);
        vm.deal(stranger, 1 ether);
        _expectError(ITrainingLedger.BadKey.selector);
        vm.prank(stranger);
        ledger.join{value: 1 ether}(job, termsHash, 5, _noProof(), key);
        _newJob(_masked());
        _expectError(ITrainingLedger.BadKey.selector);
        vm.prank(stranger);
        ledger.join{value: 1 ether}(job, termsHash, 5, _noProof(), NO_KEY);
    }

    function test_who_is_not_on_the_list_is_refused(address caller, uint8 which, bytes32[] calldata proof) public {
        vm.assume(uint160(caller) < 0x1000000 || uint160(caller) > 0x1000002);
        JobTerms memory terms = _terms();
        terms.admission = _admission();
        _newJob(terms);
        vm.deal(caller, 2 ether);
        _expectError(ITrainingLedger.NotAdmitted.selector, caller);
        vm.prank(caller);
        ledger.join{value: 1 ether}(job, termsHash, 5, _proof(which % 3), NO_KEY);
        _expectError(ITrainingLedger.NotAdmitted.selector, caller);
        vm.prank(caller);
        ledger.join{value: 1 ether}(job, termsHash, 5, proof, NO_KEY);
    }

    function test_any_other_terms_are_refused(bytes32 other) public {
        vm.assume(other != termsHash);
        vm.deal(_participant(0), 1 ether);
        _expectError(ITrainingLedger.WrongTerms.selector, uint256(termsHash));
        vm.prank(_participant(0));
        ledger.join{value: 1 ether}(job, other, 5, _noProof(), NO_KEY);
    }

    function test_not_once_the_last_round_is_over(bool late) public {
        _bring(Phase.Disclosing);
        if (late) _skip(SETTLE_WINDOW);
        _expectWrongPhase(late ? Phase.Overdue : Phase.Disclosing);
        vm.deal(_participant(3), 1 ether);
        vm.prank(_participant(3));
        ledger.join{value: 1 ether}(job, termsHash, 1, _noProof(), NO_KEY);
    }

    function test_only_once() public {
        _join(0);
        _join(1);
        vm.deal(_participant(1), 1 ether);
        _expectError(ITrainingLedger.AlreadySeated.selector, 1);
        vm.prank(_participant(1));
        ledger.join{value: 1 ether}(job, termsHash, 5, _noProof(), NO_KEY);
    }

    function test_no_more_than_there_are_seats(uint8 most) public {
        JobTerms memory terms = _terms();
        terms.maxParticipants = uint8(_bound(most, 2, 12));
        _newJob(terms);
        for (uint256 i; i < terms.maxParticipants; i++) _join(i);
        _expectFull(terms.maxParticipants);
    }

    function test_somebody_without_samples_is_refused() public {
        vm.deal(_participant(0), 1 ether);
        _expectError(ITrainingLedger.ZeroSamples.selector);
        vm.prank(_participant(0));
        ledger.join{value: 1 ether}(job, termsHash, 0, _noProof(), NO_KEY);
    }

    function test_any_value_but_the_stake_is_refused(uint256 value) public {
        value = _bound(value, 0, 2 ether);
        vm.assume(value != 1 ether);
        vm.deal(_participant(0), value);
        _expectError(ITrainingLedger.WrongValue.selector, 1 ether);
        vm.prank(_participant(0));
        ledger.join{value: value}(job, termsHash, 5, _noProof(), NO_KEY);
    }

    function test_not_when_the_job_is_over() public {
        _close();
        vm.deal(_participant(0), 1 ether);
        _expectWrongPhase(Phase.Over);
        vm.prank(_participant(0));
        ledger.join{value: 1 ether}(job, termsHash, 5, _noProof(), NO_KEY);
    }

    function test_an_unknown_job_is_refused(JobId unknown) public {
        vm.assume(JobId.unwrap(unknown) != JobId.unwrap(job));
        _expectUnknownJob(unknown);
        ledger.join(unknown, termsHash, 5, _noProof(), NO_KEY);
    }

    /// @dev Participants 0, 1 and 2: the first two are below one node.
    function _admission() internal pure returns (bytes32) {
        return _node(_node(_leaf(0), _leaf(1)), _leaf(2));
    }

    function _proof(uint256 i) internal pure returns (bytes32[] memory proof) {
        proof = new bytes32[](i == 2 ? 1 : 2);
        proof[0] = i == 2 ? _node(_leaf(0), _leaf(1)) : _leaf(1 - i);
        if (i != 2) proof[1] = _leaf(2);
    }

    function _leaf(uint256 i) internal pure returns (bytes32) {
        return keccak256(abi.encode(keccak256(abi.encode(_participant(i)))));
    }

    function _node(bytes32 one, bytes32 other) internal pure returns (bytes32) {
        return one < other ? keccak256(abi.encode(one, other)) : keccak256(abi.encode(other, one));
    }

    function _expectFull(uint256 most) internal {
        address late = _participant(100);
        vm.deal(late, 1 ether);
        _expectError(ITrainingLedger.JobFull.selector, most);
        vm.prank(late);
        ledger.join{value: 1 ether}(job, termsHash, 5, _noProof(), NO_KEY);
    }
}
