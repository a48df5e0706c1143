// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {
    Departure,
    ITrainingLedger,
    JobId,
    JobState,
    JobTerms,
    Member,
    Outcome,
    Phase,
    Round
} from "./interfaces/ITrainingLedger.sol";

/// @dev The bitmaps of a round have one bit per seat.
uint8 constant MAX_SEATS = 64;
uint256 constant MAX_COORDINATORS = 8;

/// @dev Who sits in a seat and what it has earned there and not withdrawn, in one storage word.
/// `earned` cannot overflow because it is wei that this contract holds, and fewer than 2^96 wei exist.
struct Seat {
    address participant;
    uint96 earned;
}

/// @dev All that committing and revealing need to know of a participant, in one storage word.
/// 30 bytes of a commitment bind as well as 32: nobody finds two openings that agree in 240 bits.
struct Pledge {
    uint8 seatPlusOne;
    uint8 misses;
    bytes30 commitment;
}

/// @dev What a participant brought when it took its seat.
struct Entry {
    uint24 firstRound;
    uint32 samples;
    uint96 stake;
}

/// @dev What a coordinator has in deposit, and since when, in one storage word.
struct Bond {
    uint96 amount;
    uint40 since;
}

/// @dev Everything the ledger knows about a job.
struct Job {
    JobTerms terms;
    JobState state;
    Round round;
    Seat[MAX_SEATS] seats;
    address[] coordinators;
    mapping(address coordinator => Bond) bonds;
    mapping(address participant => Pledge) pledges;
    mapping(address participant => Entry) entries;
    mapping(address account => uint256) credits;
}

/// @title TrainingLedger
/// @notice Holds every training job: its rounds, and its money.
contract TrainingLedger is ITrainingLedger {
    /* STORAGE */

    /// @inheritdoc ITrainingLedger
    uint256 public jobCount;

    mapping(JobId job => Job) internal _jobs;

    /* JOBS */

    /// @inheritdoc ITrainingLedger
    function createJob(JobTerms calldata terms, address[] calldata coordinators)
        external
        payable
        returns (JobId job)
    {
        require(terms.rounds != 0, ZeroRounds());
        require(terms.commitWindow != 0 && terms.revealWindow != 0 && terms.settleWindow != 0, ZeroWindow());
        require(terms.specDigest != 0 && terms.modelDigest != 0 && terms.modelRoot != 0, ZeroDigest());
        require(
            terms.minParticipants != 0 && terms.minParticipants <= terms.maxParticipants
                && terms.maxParticipants <= MAX_SEATS,
            BadParticipantLimits(MAX_SEATS)
        );
        require(terms.missLimit != 0, ZeroMissLimit());
        require(terms.revealPenalty <= terms.stake, PenaltyExceedsDeposit(terms.stake));
        require(terms.settlePenalty <= terms.bond, PenaltyExceedsDeposit(terms.bond));
        require(coordinators.length != 0 && coordinators.length <= MAX_COORDINATORS, BadCoordinatorCount(MAX_COORDINATORS));
        for (uint256 i; i < coordinators.length; i++) {
            require(coordinators[i] != address(0), BadCoordinator(coordinators[i]));
            for (uint256 k; k < i; k++) {
                require(coordinators[k] != coordinators[i], BadCoordinator(coordinators[i]));
            }
        }
        uint128 budget = uint128(terms.rounds) * terms.reward;
        require(msg.value == budget, WrongValue(budget));

        job = JobId.wrap(++jobCount);
        Job storage j = _jobs[job];
        j.terms = terms;
        j.coordinators = coordinators;
        j.state.sponsor = msg.sender;
        j.state.escrow = budget;
        j.state.modelDigest = terms.modelDigest;
        j.state.modelRoot = terms.modelRoot;

        emit JobCreated(job, msg.sender, terms, coordinators);
    }

    /// @inheritdoc ITrainingLedger
    function closeJob(JobId job) external {
        Job storage j = _existing(job);
        require(msg.sender == j.state.sponsor, NotSponsor(j.state.sponsor));
        Phase phase = phaseAt(job, block.timestamp);
        require(phase == Phase.Waiting || phase == Phase.Starved, WrongPhase(phase));

        Round memory current = j.round;
        if (phase == Phase.Starved) _closeAttempt(job, j, current);
        _endOnceDisclosed(job, j, current, Outcome.Withdrawn);
    }

    /* COORDINATORS */

    /// @inheritdoc ITrainingLedger
    function postBond(JobId job) external payable {
        Job storage j = _existing(job);
        require(!j.state.over, WrongPhase(Phase.Over));
        require(_isListed(j, msg.sender), NotCoordinator(_servingCoordinator(j)));
        require(!_isBonded(j, msg.sender), BondAlreadyPosted(j.bonds[msg.sender].amount));
        require(msg.value == j.terms.bond, WrongValue(j.terms.bond));

        j.bonds[msg.sender] = Bond({amount: j.terms.bond, since: uint40(block.timestamp)});
        emit BondPosted(job, msg.sender, msg.value);

        Round memory current = j.round;
        if (_isWaiting(current)) _openOrWait(job, j, current);
    }

    /// @inheritdoc ITrainingLedger
    function releaseBond(JobId job) external {
        Job storage j = _existing(job);
        uint256 bond = j.bonds[msg.sender].amount;
        require(bond != 0, NoBond(msg.sender));
        if (msg.sender == _servingCoordinator(j)) {
            Phase phase = phaseAt(job, block.timestamp);
            // In Starved nobody is owed a settlement any more.
            bool idle = phase == Phase.Waiting || phase == Phase.Starved || phase == Phase.Over;
            require(idle && !_withholds(j, j.round), BondInUse(phase));
        }

        delete j.bonds[msg.sender];
        j.credits[msg.sender] += bond;

        emit BondReleased(job, msg.sender, bond);
    }

    /// @inheritdoc ITrainingLedger
    function settle(
        JobId job,
        uint24 round,
        bytes32 modelDigest,
        bytes32 modelRoot,
        bytes32 reportDigest,
        uint64 revealed,
        uint64 accepted,
        uint32[] calldata scores
    ) external {
        Job storage j = _existing(job);
        Round memory current = j.round;
        require(round == current.number, WrongRound(current.number));
        require(msg.sender == _servingCoordinator(j), NotCoordinator(_servingCoordinator(j)));
        Phase phase = phaseAt(job, block.timestamp);
        require(
            phase == Phase.Settling || (phase == Phase.Overdue && !_isDisclosing(current)), WrongPhase(phase)
        );
        require(modelDigest != 0 && modelRoot != 0 && reportDigest != 0, ZeroDigest());
        require(revealed == current.revealed, StaleReveals(current.revealed));
        require(accepted & ~revealed == 0, NotRevealed(accepted & ~revealed));
        uint256 count = _count(accepted);
        require(scores.length == count, BadScoreCount(count));

        // Before the pot is counted: the penalties of this round belong to it.
        _closeAttempt(job, j, current);

        uint96 reward = j.terms.reward;
        uint256 pot = uint256(reward) + j.state.forfeits;
        emit Settled(job, round, msg.sender, modelDigest, modelRoot, reportDigest, accepted, scores, pot);

        uint256 total = _sum(scores);
        if (total != 0) {
            uint256 paid = _payInProportion(job, j, accepted, scores, pot, total);
            j.state.escrow -= reward;
            // Rounding leaves less than one wei per accepted participant; it goes to the next pot.
            j.state.forfeits = uint128(pot - paid);
        }
        j.state.modelDigest = modelDigest;
        j.state.modelRoot = modelRoot;
        if (j.state.attempt != 0) j.state.attempt = 0;
        current.number = round + 1;

        if (current.number == j.terms.rounds) _endOnceDisclosed(job, j, current, Outcome.Completed);
        else _openOrWait(job, j, current);
    }

    /// @inheritdoc ITrainingLedger
    function replaceCoordinator(JobId job) external {
        Job storage j = _existing(job);
        Phase phase = phaseAt(job, block.timestamp);
        address coordinator = _servingCoordinator(j);
        Round memory current = j.round;
        (uint8 index, address successor) = _nextCoordinator(j);
        // Nobody is made to go on from a settlement that it has not looked at: only the successor itself.
        if (phase == Phase.Waiting && msg.sender == successor && _isVacant(j, current, successor)) {
            j.state.coordinator = index;
            emit CoordinatorReplaced(job, current.number, coordinator, successor, 0);
            _openOrWait(job, j, current);
            return;
        }
        require(phase == Phase.Overdue, WrongPhase(phase));

        uint256 bond = j.bonds[coordinator].amount;
        bool last = successor == address(0);
        bool keptTheKey = _isDisclosing(current) || (last && _withholds(j, current));
        uint256 penalty = keptTheKey ? bond : j.terms.settlePenalty;

        delete j.bonds[coordinator];
        j.credits[coordinator] += bond - penalty;

        emit CoordinatorReplaced(job, current.number, coordinator, successor, penalty);
        emit BondReleased(job, coordinator, bond - penalty);

        // Whoever revealed is still seated: nobody leaves with a commitment, and `leave` takes its bit in Disclosing.
        uint64 heirs = current.revealed != 0 ? current.revealed : j.state.seats;
        j.state.forfeits += uint128(penalty - _payEqually(job, j, heirs, penalty));
        if (last) {
            if (!_isDisclosing(current)) _closeAttempt(job, j, current);
            _end(job, j, current, Outcome.Abandoned);
        } else {
            j.state.coordinator = index;
            // What was revealed stays valid; the successor gets a window of its own, to settle or to disclose.
            j.round.revealEnd = uint40(block.timestamp);
        }
    }

    /* PARTICIPANTS */

    /// @inheritdoc ITrainingLedger
    function join(JobId job, uint32 samples) external payable {
        Job storage j = _existing(job);
        require(!j.state.over, WrongPhase(Phase.Over));
        uint8 seatPlusOne = j.pledges[msg.sender].seatPlusOne;
        if (seatPlusOne != 0) revert AlreadySeated(seatPlusOne - 1);
        Round memory current = j.round;
        if (_isDisclosing(current)) revert WrongPhase(phaseAt(job, block.timestamp));
        require(current.seated < j.terms.maxParticipants, JobFull(j.terms.maxParticipants));
        require(samples != 0, ZeroSamples());
        require(msg.value == j.terms.stake, WrongValue(j.terms.stake));

        uint8 seat = _lowestFreeSeat(j.state.seats);
        bool inTime = current.commitEnd == 0 || block.timestamp < current.commitEnd;
        j.pledges[msg.sender] = Pledge({seatPlusOne: seat + 1, misses: 0, commitment: 0});
        j.entries[msg.sender] = Entry({
            firstRound: inTime ? current.number : current.number + 1,
            samples: samples,
            stake: j.terms.stake
        });
        j.seats[seat].participant = msg.sender;
        j.state.seats |= _bit(seat);
        current.seated += 1;

        emit Joined(job, msg.sender, seat, samples);

        if (_isWaiting(current)) _openOrWait(job, j, current);
        else j.round = current;
    }

    /// @inheritdoc ITrainingLedger
    function leave(JobId job) external {
        Job storage j = _existing(job);
        uint8 seatPlusOne = j.pledges[msg.sender].seatPlusOne;
        require(seatPlusOne != 0, NotSeated(msg.sender));
        uint8 seat = seatPlusOne - 1;
        Round memory current = j.round;
        // No need to ask for the phase: nobody counts as committed in Waiting, Disclosing or Over.
        require(current.committed & _bit(seat) == 0, CommitmentOutstanding(current.number));
        // Only in Disclosing: whoever leaves then inherits nothing.
        if (current.revealed & _bit(seat) != 0) {
            current.revealed &= ~_bit(seat);
            current.reveals -= 1;
        }

        _unseat(job, j, current, seat, Departure.Voluntary);
        if (block.timestamp < current.commitEnd && current.commits != 0 && current.commits == current.seated) {
            _closeCommitting(j, current);
        }
        j.round = current;
    }

    /// @inheritdoc ITrainingLedger
    function commit(JobId job, uint24 round, bytes32 commitment) external {
        Job storage j = _jobs[job];
        Round storage current = j.round;
        // `commitEnd` is zero in Waiting, Disclosing and Over, and in a job that does not exist.
        if (block.timestamp >= current.commitEnd) revert WrongPhase(phaseAt(job, block.timestamp));
        require(round == current.number, WrongRound(current.number));
        uint8 seatPlusOne = j.pledges[msg.sender].seatPlusOne;
        require(seatPlusOne != 0, NotSeated(msg.sender));
        uint64 bit = _bit(seatPlusOne - 1);
        require(current.committed & bit == 0, AlreadyCommitted(msg.sender));

        // Whoever commits has missed nothing.
        j.pledges[msg.sender] = Pledge({seatPlusOne: seatPlusOne, misses: 0, commitment: bytes30(commitment)});
        current.committed |= bit;
        current.commits += 1;
        if (current.commits == current.seated) {
            current.commitEnd = uint40(block.timestamp);
            current.revealEnd = uint40(block.timestamp + j.terms.revealWindow);
        }

        emit Committed(job, round, msg.sender, commitment);
    }

    /// @inheritdoc ITrainingLedger
    function reveal(JobId job, bytes32 digest, bytes32 root, bytes32 salt) external {
        Job storage j = _jobs[job];
        Round storage current = j.round;
        // `revealEnd` is in the past in Disclosing; it is zero in Waiting, in Over, and in a job that does not exist.
        if (
            block.timestamp < current.commitEnd || block.timestamp >= current.revealEnd
                || current.commits < j.terms.minParticipants
        ) revert WrongPhase(phaseAt(job, block.timestamp));
        Pledge memory pledge = j.pledges[msg.sender];
        require(pledge.seatPlusOne != 0, NotSeated(msg.sender));
        uint64 bit = _bit(pledge.seatPlusOne - 1);
        require(current.committed & bit != 0, NotCommitted(msg.sender));
        require(current.revealed & bit == 0, AlreadyRevealed(msg.sender));
        require(
            pledge.commitment == bytes30(commitmentFor(job, current.number, msg.sender, digest, root, salt)),
            CommitmentMismatch(pledge.commitment)
        );

        current.revealed |= bit;
        current.reveals += 1;
        if (current.reveals == current.commits) current.revealEnd = uint40(block.timestamp);

        emit Revealed(job, current.number, msg.sender, digest, root, salt);
    }

    /* ANYONE */

    /// @inheritdoc ITrainingLedger
    function restartRound(JobId job) external {
        Job storage j = _existing(job);
        Phase phase = phaseAt(job, block.timestamp);
        require(phase == Phase.Starved, WrongPhase(phase));

        Round memory current = j.round;
        _closeAttempt(job, j, current);
        emit RoundStarved(job, current.number, j.state.attempt);
        if (j.state.attempt == type(uint16).max) {
            _end(job, j, current, Outcome.Abandoned);
        } else {
            j.state.attempt += 1;
            _openOrWait(job, j, current);
        }
    }

    /// @inheritdoc ITrainingLedger
    function disclose(JobId job, bytes32 key) external {
        Job storage j = _existing(job);
        require(j.state.validationKey == 0, AlreadyDisclosed(j.state.validationKey));
        bytes32 lock = j.terms.validationLock;
        // No need to ask whether the set is withheld: nothing hashes to the lock of a public one.
        require(key != 0 && keccak256(abi.encode(key)) == lock, WrongKey(lock));

        j.state.validationKey = key;
        emit ValidationDisclosed(job, key);

        Round memory current = j.round;
        if (_isDisclosing(current)) {
            _end(job, j, current, current.number == j.terms.rounds ? Outcome.Completed : Outcome.Withdrawn);
        }
    }

    /// @inheritdoc ITrainingLedger
    function withdraw(JobId job) external returns (uint256 amount) {
        Job storage j = _existing(job);
        amount = creditOf(job, msg.sender);
        require(amount != 0, NothingToWithdraw(msg.sender));

        delete j.credits[msg.sender];
        uint8 seatPlusOne = j.pledges[msg.sender].seatPlusOne;
        if (seatPlusOne != 0) j.seats[seatPlusOne - 1].earned = 0;

        emit Withdrawn(job, msg.sender, amount);

        (bool paid,) = msg.sender.call{value: amount}("");
        require(paid, TransferFailed(msg.sender));
    }

    /* VIEWS */

    /// @inheritdoc ITrainingLedger
    function termsOf(JobId job) external view returns (JobTerms memory) {
        return _existing(job).terms;
    }

    /// @inheritdoc ITrainingLedger
    function stateOf(JobId job) external view returns (JobState memory) {
        return _existing(job).state;
    }

    /// @inheritdoc ITrainingLedger
    function roundOf(JobId job) external view returns (Round memory) {
        return _existing(job).round;
    }

    /// @inheritdoc ITrainingLedger
    function phaseAt(JobId job, uint256 timestamp) public view returns (Phase) {
        Job storage j = _existing(job);
        if (j.state.over) return Phase.Over;
        Round memory current = j.round;
        uint8 least = j.terms.minParticipants;
        if (_isWaiting(current)) return Phase.Waiting;
        if (_isDisclosing(current)) {
            return timestamp < uint256(current.revealEnd) + j.terms.settleWindow ? Phase.Disclosing : Phase.Overdue;
        }
        if (timestamp < current.commitEnd) return Phase.Committing;
        if (current.commits < least) return Phase.Starved;
        if (timestamp < current.revealEnd) return Phase.Revealing;
        if (current.reveals < least) return Phase.Starved;
        if (timestamp < uint256(current.revealEnd) + j.terms.settleWindow) return Phase.Settling;
        return Phase.Overdue;
    }

    /// @inheritdoc ITrainingLedger
    function coordinatorsOf(JobId job) external view returns (address[] memory) {
        return _existing(job).coordinators;
    }

    /// @inheritdoc ITrainingLedger
    function bondOf(JobId job, address coordinator) external view returns (uint256) {
        return _existing(job).bonds[coordinator].amount;
    }

    /// @inheritdoc ITrainingLedger
    function memberOf(JobId job, address participant) external view returns (Member memory) {
        Job storage j = _existing(job);
        Pledge memory pledge = j.pledges[participant];
        Entry memory entry = j.entries[participant];
        return Member(pledge.seatPlusOne, pledge.misses, entry.firstRound, entry.samples, entry.stake);
    }

    /// @inheritdoc ITrainingLedger
    function participantAt(JobId job, uint8 seat) external view returns (address) {
        return _existing(job).seats[seat].participant;
    }

    /// @inheritdoc ITrainingLedger
    function commitmentOf(JobId job, address participant) external view returns (bytes30) {
        return _existing(job).pledges[participant].commitment;
    }

    /// @inheritdoc ITrainingLedger
    function commitmentFor(
        JobId job,
        uint24 round,
        address participant,
        bytes32 digest,
        bytes32 root,
        bytes32 salt
    ) public view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(this), job, round, participant, digest, root, salt));
    }

    /// @inheritdoc ITrainingLedger
    function creditOf(JobId job, address account) public view returns (uint256 credit) {
        Job storage j = _existing(job);
        credit = j.credits[account];
        uint8 seatPlusOne = j.pledges[account].seatPlusOne;
        if (seatPlusOne != 0) credit += j.seats[seatPlusOne - 1].earned;
    }

    /* INTERNAL: ROUNDS */

    // `current` is a copy of `j.round` that the caller goes on with; whoever ends a call writes it back, once.

    /// @dev Starts over with an empty attempt: open if it can be, waiting otherwise.
    function _openOrWait(JobId job, Job storage j, Round memory current) internal {
        Round memory fresh;
        fresh.number = current.number;
        fresh.seated = current.seated;
        if (current.seated >= j.terms.minParticipants && _isBonded(j, _servingCoordinator(j))) {
            fresh.commitEnd = uint40(block.timestamp + j.terms.commitWindow);
            fresh.revealEnd = fresh.commitEnd + j.terms.revealWindow;
            emit RoundOpened(job, fresh.number, j.state.attempt, fresh.commitEnd, fresh.revealEnd);
        }
        j.round = fresh;
    }

    /// @dev Ends a job; while settled rounds cannot be redone for want of the validation set, it waits for the key first.
    function _endOnceDisclosed(JobId job, Job storage j, Round memory current, Outcome outcome) internal {
        if (!_withholds(j, current)) {
            _end(job, j, current, outcome);
            return;
        }
        Round memory last;
        last.number = current.number;
        last.seated = current.seated;
        last.revealEnd = uint40(block.timestamp);
        // They are the heirs of a bond that is forfeited.
        last.reveals = current.reveals;
        last.revealed = current.revealed;
        j.round = last;
        emit DisclosureDue(job, outcome, uint40(block.timestamp + j.terms.settleWindow));
    }

    /// @dev No round is open, and none can be settled. Also so in Over.
    function _isWaiting(Round memory current) internal pure returns (bool) {
        return current.commitEnd == 0 && current.revealEnd == 0;
    }

    /// @dev No round will be open any more, and what is left is to disclose the validation set.
    function _isDisclosing(Round memory current) internal pure returns (bool) {
        return current.commitEnd == 0 && current.revealEnd != 0;
    }

    /// @dev Whether a round was settled with a validation set whose key is not on chain.
    function _withholds(Job storage j, Round memory current) internal view returns (bool) {
        return current.number != 0 && j.terms.validationLock != 0 && j.state.validationKey == 0;
    }

    /// @dev Everyone seated has committed: the reveal window begins now.
    function _closeCommitting(Job storage j, Round memory current) internal view {
        current.commitEnd = uint40(block.timestamp);
        current.revealEnd = uint40(block.timestamp + j.terms.revealWindow);
    }

    /// @dev Takes the penalties of those who committed and did not reveal and counts the misses of those who did not
    /// commit. Whoever revealed keeps its seat.
    function _closeAttempt(JobId job, Job storage j, Round memory current) internal {
        // With too few commitments nobody may reveal, so that nobody is to blame for not revealing.
        bool couldReveal = current.commits >= j.terms.minParticipants;
        _takePenalties(job, j, current, couldReveal ? current.committed & ~current.revealed : 0);
        _countMisses(job, j, current, j.state.seats & ~current.committed);
    }

    function _takePenalties(JobId job, Job storage j, Round memory current, uint64 silent) internal {
        uint96 penalty = silent == 0 ? 0 : j.terms.revealPenalty;
        for (uint8 seat; silent >> seat != 0; seat++) {
            if (silent & _bit(seat) == 0) continue;
            address participant = j.seats[seat].participant;
            Entry storage entry = j.entries[participant];
            // Cannot underflow because whoever could not pay once more lost its seat below.
            entry.stake -= penalty;
            j.state.forfeits += penalty;
            emit PenaltyTaken(job, current.number, participant, penalty);
            if (entry.stake < penalty) _unseat(job, j, current, seat, Departure.Exhausted);
        }
    }

    function _countMisses(JobId job, Job storage j, Round memory current, uint64 absent) internal {
        uint8 missLimit = absent == 0 ? 0 : j.terms.missLimit;
        for (uint8 seat; absent >> seat != 0; seat++) {
            if (absent & _bit(seat) == 0) continue;
            address participant = j.seats[seat].participant;
            if (j.entries[participant].firstRound > current.number) continue;
            Pledge storage pledge = j.pledges[participant];
            // Cannot overflow because a participant leaves at `missLimit`, a uint8.
            pledge.misses += 1;
            if (pledge.misses == missLimit) _unseat(job, j, current, seat, Departure.Missing);
        }
    }

    /// @dev Frees a seat; what is left of the stake and what was earned in the seat become credit.
    function _unseat(JobId job, Job storage j, Round memory current, uint8 seat, Departure departure) internal {
        address participant = j.seats[seat].participant;
        uint256 stake = j.entries[participant].stake;

        j.credits[participant] += stake + j.seats[seat].earned;
        delete j.pledges[participant];
        delete j.entries[participant];
        delete j.seats[seat];
        j.state.seats &= ~_bit(seat);
        current.seated -= 1;

        emit Left(job, participant, seat, departure, stake);
    }

    /* INTERNAL: MONEY */

    /// @dev Ends a job. The escrow goes back to the sponsor, penalties that nobody has received go to those who revealed
    /// in the last attempt; if there are none, to those who are seated; if there are none, to the sponsor.
    function _end(JobId job, Job storage j, Round memory current, Outcome outcome) internal {
        uint256 remainder = j.state.escrow;
        uint256 forfeits = j.state.forfeits;
        uint64 heirs = current.revealed != 0 ? current.revealed : j.state.seats;

        j.state.over = true;
        j.state.escrow = 0;
        j.state.forfeits = 0;
        Round memory last;
        last.number = current.number;
        last.seated = current.seated;
        j.round = last;

        emit JobEnded(job, outcome);

        if (forfeits != 0) remainder += forfeits - _payEqually(job, j, heirs, forfeits);
        if (remainder != 0) {
            address sponsor = j.state.sponsor;
            j.credits[sponsor] += remainder;
            emit Credited(job, sponsor, remainder);
        }
    }

    /// @dev Divides `pot` among the accepted seats by score, rounding down; returns what was paid.
    function _payInProportion(
        JobId job,
        Job storage j,
        uint64 accepted,
        uint32[] calldata scores,
        uint256 pot,
        uint256 total
    ) internal returns (uint256 paid) {
        uint256 i;
        // Cannot overflow because a pot is wei that exist, fewer than 2^96, and a score has 32 bits.
        unchecked {
            for (uint256 seat; accepted >> seat != 0; seat++) {
                if (accepted >> seat & 1 == 0) continue;
                uint256 share = pot * scores[i++] / total;
                paid += share;
                _paySeat(job, j, seat, share);
            }
        }
    }

    /// @dev Divides `amount` equally among `seats`, rounding down; returns what was paid.
    function _payEqually(JobId job, Job storage j, uint64 seats, uint256 amount) internal returns (uint256 paid) {
        if (seats == 0) return 0;
        uint256 count = _count(seats);
        uint256 share = amount / count;
        for (uint8 seat; seats >> seat != 0; seat++) {
            if (seats & _bit(seat) != 0) _paySeat(job, j, seat, share);
        }
        return share * count;
    }

    function _paySeat(JobId job, Job storage j, uint256 seat, uint256 amount) internal {
        if (amount == 0) return;
        Seat storage s = j.seats[seat];
        s.earned += uint96(amount);
        emit Credited(job, s.participant, amount);
    }

    /* INTERNAL: COORDINATORS */

    function _servingCoordinator(Job storage j) internal view returns (address) {
        return j.coordinators[j.state.coordinator];
    }

    /// @dev In a job without a bond everyone on the list may serve at once.
    function _isBonded(Job storage j, address coordinator) internal view returns (bool) {
        return j.bonds[coordinator].amount != 0 || j.terms.bond == 0;
    }

    function _isListed(Job storage j, address account) internal view returns (bool) {
        for (uint256 i; i < j.coordinators.length; i++) {
            if (j.coordinators[i] == account) return true;
        }
        return false;
    }

    /// @dev The next one on the list with a bond; zero when there is none.
    function _nextCoordinator(Job storage j) internal view returns (uint8 index, address coordinator) {
        for (index = j.state.coordinator + 1; index < j.coordinators.length; index++) {
            coordinator = j.coordinators[index];
            if (_isBonded(j, coordinator)) return (index, coordinator);
        }
        return (0, address(0));
    }

    /// @dev In Waiting: whether it is for a bond only, which the serving coordinator had a settle window's time to post.
    /// No need to ask whether it has: the round would have opened.
    function _isVacant(Job storage j, Round memory current, address successor) internal view returns (bool) {
        return current.seated >= j.terms.minParticipants
            && block.timestamp >= uint256(j.bonds[successor].since) + j.terms.settleWindow;
    }

    /* INTERNAL: LOOK-UP */

    function _existing(JobId job) internal view returns (Job storage j) {
        j = _jobs[job];
        require(j.state.sponsor != address(0), UnknownJob(job));
    }

    function _bit(uint8 seat) internal pure returns (uint64) {
        return uint64(1) << seat;
    }

    /// @dev There is one: a job has at most as many participants as there are bits.
    function _lowestFreeSeat(uint64 seats) internal pure returns (uint8 seat) {
        while (seats & _bit(seat) != 0) seat++;
    }

    function _sum(uint32[] calldata scores) internal pure returns (uint256 total) {
        // Cannot overflow because calldata cannot hold 2^224 scores of 32 bits.
        unchecked {
            for (uint256 i; i < scores.length; i++) {
                total += scores[i];
            }
        }
    }

    /// @dev The number of bits set.
    function _count(uint64 bits) internal pure returns (uint256 count) {
        // Cannot overflow because there are 64 bits, and none is taken from zero.
        unchecked {
            for (uint256 rest = bits; rest != 0; rest &= rest - 1) {
                count++;
            }
        }
    }
}
