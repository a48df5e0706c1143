// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ITrainingLedger, JobId, JobTerms} from "../src/interfaces/ITrainingLedger.sol";
import {BaseTest} from "./BaseTest.sol";

/// @notice A participant whose account is a contract that takes no money, takes it, or calls back when it does.
contract Taker {
    enum Mood {
        Refuse,
        Take,
        Burn,
        CallBack
    }

    Mood internal _mood;
    bytes internal _call;
    uint256 internal _value;
    /// What the call back answered.
    bytes public answer;
    bool public succeeded;

    function set(Mood mood) external {
        _mood = mood;
    }

    function callBackWith(bytes calldata call, uint256 value) external {
        (_mood, _call, _value) = (Mood.CallBack, call, value);
    }

    receive() external payable {
        require(_mood != Mood.Refuse, "no, thank you");
        if (_mood == Mood.Burn) while (true) {}
        if (_mood == Mood.CallBack) {
            _mood = Mood.Take;
            (succeeded, answer) = msg.sender.call{value: _value}(_call);
        }
    }
}

contract WithdrawTest is BaseTest {
    /* WHAT IT DOES */

    function test_withdraw(uint96 reward, uint96 stake, bool left) public {
        JobTerms memory terms = _terms();
        terms.reward = uint96(_bound(reward, 2, type(uint96).max / 2));
        terms.stake = uint96(_bound(stake, terms.revealPenalty, type(uint96).max / 2));
        _newJob(terms);
        _open(2);
        _playRound(2);
        if (left) _leave(0);
        uint256 amount = terms.reward / 2 + (left ? terms.stake : 0);
        uint256 held = address(ledger).balance;

        _expectEvent();
        emit ITrainingLedger.Withdrawn(job, _participant(0), amount);
        vm.assertEq(_withdraw(_participant(0)), amount);

        vm.assertEq(_participant(0).balance, amount);
        vm.assertEq(address(ledger).balance, held - amount);
        vm.assertEq(_credit(0), 0);
        vm.assertEq(_credit(1), terms.reward / 2, "nobody else's");
        vm.assertEq(_member(0).stake, left ? 0 : terms.stake, "a stake in deposit stays there");
    }

    function test_what_comes_later_can_be_withdrawn_later() public {
        _open(2);
        _playRound(2);
        vm.assertEq(_withdraw(_participant(0)), 4.5 ether);
        _playRound(2);
        _leave(0);
        vm.assertEq(_withdraw(_participant(0)), 5.5 ether);
    }

    function test_only_from_the_job_that_is_named() public {
        _open(2);
        _playRound(2);
        JobId first = job;
        _newJob(_terms());
        _open(2);
        _playRound(2);
        vm.assertEq(_withdraw(_participant(0)), 4.5 ether);
        vm.assertEq(ledger.creditOf(first, _participant(0)), 4.5 ether);
    }

    /* WHO DOES NOT PLAY ALONG */

    function test_who_takes_no_money_keeps_its_credit() public {
        address taker = _taker();
        Taker(payable(taker)).set(Taker.Mood.Refuse);
        _expectError(ITrainingLedger.TransferFailed.selector, taker);
        _withdraw(taker);
        vm.assertEq(ledger.creditOf(job, taker), 9 ether);
        Taker(payable(taker)).set(Taker.Mood.Take);
        vm.assertEq(_withdraw(taker), 9 ether);
    }

    function test_who_takes_no_money_holds_up_nobody() public {
        address taker = _taker();
        Taker(payable(taker)).set(Taker.Mood.Refuse);
        vm.prank(_participant(1));
        ledger.leave(job);
        vm.assertEq(_withdraw(_participant(1)), 1 ether);
        _skip(COMMIT_WINDOW);
        _close();
        vm.assertEq(_withdraw(sponsor), 18 ether);
    }

    function test_withdrawing_inside_withdraw_yields_nothing_more() public {
        address taker = _taker();
        Taker(payable(taker)).callBackWith(abi.encodeCall(ITrainingLedger.withdraw, (job)), 0);
        vm.assertEq(_withdraw(taker), 9 ether);
        vm.assertEq(taker.balance, 9 ether);
        vm.assertFalse(Taker(payable(taker)).succeeded());
        vm.assertEq(
            Taker(payable(taker)).answer(), abi.encodeWithSelector(ITrainingLedger.NothingToWithdraw.selector, taker)
        );
    }

    function test_leaving_and_joining_inside_withdraw_moves_the_books_once() public {
        address taker = _taker();
        Taker(payable(taker)).callBackWith(abi.encodeCall(ITrainingLedger.leave, (job)), 0);
        vm.assertEq(_withdraw(taker), 9 ether);
        vm.assertTrue(Taker(payable(taker)).succeeded());
        vm.assertEq(ledger.creditOf(job, taker), 1 ether, "its stake and not its earnings again");

        Taker(payable(taker)).callBackWith(abi.encodeCall(ITrainingLedger.join, (job, termsHash, 3, _noProof(), NO_KEY)), 1 ether);
        vm.assertEq(_withdraw(taker), 1 ether);
        vm.assertTrue(Taker(payable(taker)).succeeded());
        vm.assertEq(ledger.creditOf(job, taker), 0);
        vm.assertEq(ledger.memberOf(job, taker).stake, 1 ether);
        vm.assertEq(taker.balance, 9 ether);
    }

    /* WHAT IT REFUSES */

    function test_who_has_nothing_is_refused(address caller) public {
        _open(2);
        _expectError(ITrainingLedger.NothingToWithdraw.selector, caller);
        _withdraw(caller);
    }

    function test_only_once() public {
        _open(2);
        _playRound(2);
        _withdraw(_participant(0));
        _expectError(ITrainingLedger.NothingToWithdraw.selector, _participant(0));
        _withdraw(_participant(0));
    }

    function test_an_unknown_job_is_refused(JobId unknown) public {
        vm.assume(JobId.unwrap(unknown) != JobId.unwrap(job));
        _expectUnknownJob(unknown);
        ledger.withdraw(unknown);
    }

    /// @dev Seat 0 is a contract's; it earned 9 ether in the first round.
    function _taker() internal returns (address taker) {
        taker = _participant(0);
        vm.etch(taker, type(Taker).runtimeCode);
        _open(2);
        _commitAll(2);
        _revealAll(2);
        _settle(1, _score(1));
    }
}
