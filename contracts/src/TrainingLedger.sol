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
    Round,
    Stage
} from "./interfaces/ITrainingLedger.sol";

/// @dev The bitmaps of a round have one bit per seat.
uint8 constant MAX_SEATS = 64;
uint256 constant MAX_COORDINATORS = 8;
/// @dev Of two, each learns the other's update from the sum.
uint8 constant LEAST_MASKED = 3;
/// @dev No window is longer: a stake or a bond that waits for one is locked for so long.
uint32 constant MOST_WINDOW = 30 days;

/// @dev Who sits in a seat and what it has earned there and not withdrawn, in one storage word.
/// `earned` cannot overflow because it is wei that this contract holds, and fewer than 2^96 wei exist.
struct Seat {
    address participant;
    uint96 earned;
}

/// @dev All that committing and revealing need to know of a participant, in one storage word.
/// `misses` stays when the seat is given up. In a masked job `commitment` is not used: nothing opens it.
struct Pledge {
    uint8 seatPlusOne;
    uint8 misses;
    bytes30 commitment;
}

/// @dev What a participant brought when it took its seat. `returning` stays when it gives it up, and `left` then says in
/// which masked attempt that was, see `_attemptPlusOne`.
struct Entry {
    bool returning;
    bool excused;
    uint40 left;
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
    uint32 public leastWindow;

    /// @inheritdoc ITrainingLedger
    uint256 public jobCount;

    mapping(JobId job => Job) internal _jobs;

    /// @dev In storage, so that the code of every ledger is the same.
    /// @param window A few blocks of this chain, in seconds: less is a trap for stakes and bonds.
    constructor(uint32 window) {
        require(window != 0 && window <= MOST_WINDOW, BadWindow(1, MOST_WINDOW));
        leastWindow = window;
    }

    /* JOBS */

    /// @inheritdoc ITrainingLedger
    function createJob(JobTerms calldata terms, address[] calldata coordinators)
        external
        payable
        returns (JobId job)
    {
        require(terms.rounds != 0, ZeroRounds());
        _checkWindow(terms.commitWindow);
        _checkWindow(terms.revealWindow);
        _checkWindow(terms.settleWindow);
        require(terms.specDigest != 0 && terms.modelDigest != 0 && terms.modelRoot != 0, ZeroDigest());
        require(
            terms.minParticipants != 0 && terms.minParticipants <= terms.maxParticipants
                && terms.maxParticipants <= MAX_SEATS,
            BadParticipantLimits(MAX_SEATS)
        );
        require(!terms.masked || terms.minParticipants >= LEAST_MASKED, TooFewToHide(LEAST_MASKED));
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
        j.state.termsHash = keccak256(abi.encode(msg.sender, terms, coordinators));
        j.state.modelDigest = terms.modelDigest;
        j.state.modelRoot = terms.modelRoot;
        j.round.least = terms.minParticipants;

        emit JobCreated(job, msg.sender, terms, coordinators);
    }

    /// @inheritdoc ITrainingLedger
    function closeJob(JobId job) external {
        Job storage j = _existing(job);
        require(msg.sender == j.state.sponsor, NotSponsor(j.state.sponsor));
        Phase phase = phaseAt(job, block.timestamp);
        require(phase == Phase.Waiting || phase == Phase.Starved, WrongPhase(phase));

        Round memory current = j.round;
        _endOnceDisclosed(job, j, current, Outcome.Withdrawn);
        j.round = current;
    }

    /* COORDINATORS */

    /// @inheritdoc ITrainingLedger
    function postBond(JobId job, bytes32 termsHash) external payable {
        Job storage j = _agreed(job, termsHash);
        Round memory current = j.round;
        require(current.stage != Stage.Over, WrongPhase(Phase.Over));
        require(_isListed(j, msg.sender), NotCoordinator(_servingCoordinator(j)));
        require(!_isBonded(j, msg.sender), BondAlreadyPosted(j.bonds[msg.sender].amount));
        require(msg.value == j.terms.bond, WrongValue(j.terms.bond));

        j.bonds[msg.sender] = Bond({amount: j.terms.bond, since: uint40(block.timestamp)});
        emit BondPosted(job, msg.sender, msg.value);

        if (current.stage == Stage.Waiting) _openOrWait(job, j, current);
        j.round = current;
    }

    /// @inheritdoc ITrainingLedger
    function releaseBond(JobId job) external {
        Job storage j = _existing(job);
        uint256 bond = j.bonds[msg.sender].amount;
        require(bond != 0, NoBond(msg.sender));
        if (msg.sender == _servingCoordinator(j)) {
            Phase phase = phaseAt(job, block.timestamp);
            // In Starved nobody is owed a settlement any more; but who said so itself, by a count, serves the next attempt.
            bool starved = phase == Phase.Starved && j.round.revealEnd != 0;
            bool idle = phase == Phase.Waiting || starved || phase == Phase.Over;
            require(idle && !_withholds(j, j.round), BondInUse(phase));
        }

        delete j.bonds[msg.sender];
        j.credits[msg.sender] += bond;

        emit BondReleased(job, msg.sender, bond);
    }

    /// @inheritdoc ITrainingLedger
    function count(JobId job, uint24 round, uint16 attempt, uint64 counted) external {
        Job storage j = _existing(job);
        Round memory current = j.round;
        require(round == current.number && attempt == current.attempt, WrongRound(current.number, current.attempt));
        address coordinator = _servingCoordinator(j);
        require(msg.sender == coordinator, NotCoordinator(coordinator));
        Phase phase = _phaseAt(j, current, block.timestamp);
        require(
            phase == Phase.Counting || (phase == Phase.Overdue && current.stage == Stage.Masking), WrongPhase(phase)
        );
        require(counted & ~current.committed == 0, NotCountable(counted & ~current.committed));

        // With too few the round has starved, as if no more had committed, and cannot be counted again.
        current.committed = counted;
        if (_count(counted) >= current.least) {
            (current.stage, current.revealEnd) = (Stage.Unmasking, uint32(block.timestamp + j.terms.revealWindow));
        } else {
            // Whoever missed its deadline cannot say any more that there was nothing to do.
            require(phase == Phase.Counting, TooFewCounted(current.least));
            current.revealEnd = 0;
        }
        j.round = current;

        emit Counted(job, round, attempt, msg.sender, counted, current.revealEnd);
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
        require(round == current.number, WrongRound(current.number, current.attempt));
        address coordinator = _servingCoordinator(j);
        require(msg.sender == coordinator, NotCoordinator(coordinator));
        Phase phase = _phaseAt(j, current, block.timestamp);
        require(
            phase == Phase.Settling
                || (phase == Phase.Overdue && (current.stage == Stage.Open || current.stage == Stage.Unmasking)),
            WrongPhase(phase)
        );
        require(modelDigest != 0 && modelRoot != 0 && reportDigest != 0, ZeroDigest());
        require(revealed == current.revealed, StaleReveals(current.revealed));
        require(accepted & ~revealed == 0, NotRevealed(accepted & ~revealed));
        uint256 accepts = _count(accepted);
        require(scores.length == accepts, BadScoreCount(accepts));

        uint256 penalties = _closeAttempt(job, j, current);
        uint256 pot = j.terms.reward + penalties;
        emit Settled(job, round, msg.sender, modelDigest, modelRoot, reportDigest, accepted, scores, pot);

        uint256 total = _sum(scores);
        // Where nobody earns the reward, it stays; penalties go to those who did not owe any.
        uint256 paid =
            total != 0 ? _payInProportion(j, accepted, scores, pot, total) : _payEqually(job, j, revealed, penalties);
        j.state.escrow = uint128(j.state.escrow + penalties - paid);
        j.state.modelDigest = modelDigest;
        j.state.modelRoot = modelRoot;

        (current.number, current.attempt) = (round + 1, 0);
        if (current.number == j.terms.rounds) _endOnceDisclosed(job, j, current, Outcome.Completed);
        else _openOrWait(job, j, current);
        j.round = current;
    }

    /// @inheritdoc ITrainingLedger
    function replaceCoordinator(JobId job) external {
        Job storage j = _existing(job);
        Phase phase = phaseAt(job, block.timestamp);
        require(phase == Phase.Overdue, WrongPhase(phase));

        Round memory current = j.round;
        address coordinator = _servingCoordinator(j);
        (uint8 index, address successor) = _nextCoordinator(j);
        bool last = successor == address(0);
        bool unsettled = current.stage != Stage.Disclosing;
        bool keptTheKey = !unsettled || (last && _withholds(j, current));
        uint256 bond = j.bonds[coordinator].amount;
        uint256 penalty = keptTheKey ? bond : j.terms.settlePenalty;
        uint256 deadline = last ? 0 : block.timestamp + j.terms.settleWindow;

        delete j.bonds[coordinator];
        j.credits[coordinator] += bond - penalty;

        emit CoordinatorReplaced(job, current.number, coordinator, successor, penalty, uint32(deadline));
        emit BondReleased(job, coordinator, bond - penalty);

        uint256 owed = penalty;
        // They have shown their work, and nobody will settle it.
        if (last && unsettled) {
            uint256 penalties = _closeAttempt(job, j, current);
            penalty += penalties;
            owed += j.terms.reward + penalties;
        }
        // They are still seated: nobody leaves with a commitment, and `leave` takes its bit in Disclosing.
        uint64 heirs = current.stage == Stage.Masking ? current.committed : current.revealed;
        if (heirs == 0) heirs = j.state.seats;
        j.state.escrow = uint128(j.state.escrow + penalty - _payEqually(job, j, heirs, owed));
        if (last) {
            _end(job, j, current, Outcome.Abandoned);
        } else {
            j.state.coordinator = index;
            // What was done stays valid; the successor gets a window of its own, to count, to settle or to disclose.
            current.revealEnd = uint32(block.timestamp);
        }
        j.round = current;
    }

    /// @inheritdoc ITrainingLedger
    function takeOver(JobId job) external {
        Job storage j = _existing(job);
        Round memory current = j.round;
        // No need to ask whether the serving one has a bond: the round would have opened.
        bool vacant = current.stage == Stage.Waiting && current.seated >= current.least;
        require(vacant, WrongPhase(phaseAt(job, block.timestamp)));
        (uint8 index, address successor) = _nextCoordinator(j);
        // Nobody is made to go on from a settlement that it has not looked at: only the successor itself.
        require(msg.sender == successor, NotCoordinator(successor));
        uint256 from = uint256(j.bonds[successor].since) + j.terms.settleWindow;
        require(block.timestamp >= from, TooEarly(from));

        emit CoordinatorReplaced(job, current.number, _servingCoordinator(j), successor, 0, 0);
        j.state.coordinator = index;
        _openOrWait(job, j, current);
        j.round = current;
    }

    /* PARTICIPANTS */

    /// @inheritdoc ITrainingLedger
    function join(JobId job, bytes32 termsHash, uint32 samples, bytes32[] calldata proof, bytes32 key)
        external
        payable
    {
        Job storage j = _agreed(job, termsHash);
        Round memory current = j.round;
        bool joinable = current.stage != Stage.Disclosing && current.stage != Stage.Over;
        require(joinable, WrongPhase(phaseAt(job, block.timestamp)));
        Pledge storage pledge = j.pledges[msg.sender];
        if (pledge.seatPlusOne != 0) revert AlreadySeated(pledge.seatPlusOne - 1);
        require(_isAdmitted(j.terms.admission, msg.sender, proof), NotAdmitted(msg.sender));
        require(current.seated < j.terms.maxParticipants, JobFull(j.terms.maxParticipants));
        require(samples != 0, ZeroSamples());
        require((key != 0) == j.terms.masked, BadKey());
        require(msg.value == j.terms.stake, WrongValue(j.terms.stake));

        uint8 seat = _lowestFreeSeat(j.state.seats);
        pledge.seatPlusOne = seat + 1;
        Entry storage entry = j.entries[msg.sender];
        // Coming again excuses nobody, or an idle seat would do so in every attempt.
        bool late = current.stage == Stage.Open && block.timestamp + j.terms.commitWindow > current.commitEnd;
        // Into a masked attempt whoever comes can only come late, be it again; but not out of that attempt.
        entry.excused = _isMasked(current) ? entry.left != _attemptPlusOne(current) : late && !entry.returning;
        (entry.returning, entry.samples, entry.stake) = (true, samples, j.terms.stake);
        j.seats[seat].participant = msg.sender;
        j.state.seats |= _bit(seat);
        current.seated += 1;

        emit Joined(job, msg.sender, seat, samples, key);

        if (current.stage == Stage.Waiting) _openOrWait(job, j, current);
        j.round = current;
    }

    /// @inheritdoc ITrainingLedger
    function leave(JobId job) external {
        Job storage j = _existing(job);
        uint8 seatPlusOne = j.pledges[msg.sender].seatPlusOne;
        require(seatPlusOne != 0, NotSeated(msg.sender));
        uint8 seat = seatPlusOne - 1;
        Round memory current = j.round;
        // No need to ask for the stage: nobody counts as committed without an open round.
        require(current.committed & _bit(seat) == 0, CommitmentOutstanding(current.number));

        // Only in Disclosing: whoever leaves then inherits nothing.
        current.revealed &= ~_bit(seat);
        _unseat(job, j, current, seat, Departure.Voluntary);
        // Only `commitEnd`: no deadline comes sooner because somebody leaves.
        uint256 awaited = current.stage == Stage.Masking ? _count(j.state.cohort) : current.seated;
        if (block.timestamp < current.commitEnd && _isComplete(current.committed, awaited, current.least)) {
            current.commitEnd = uint32(block.timestamp);
        }
        j.round = current;
    }

    /// @inheritdoc ITrainingLedger
    function commit(JobId job, uint24 round, uint16 attempt, bytes30 commitment) external {
        Job storage j = _jobs[job];
        Round storage current = j.round;
        if (current.stage != Stage.Open || block.timestamp >= current.commitEnd) {
            revert WrongPhase(phaseAt(job, block.timestamp));
        }
        require(round == current.number && attempt == current.attempt, WrongRound(current.number, current.attempt));
        Pledge storage pledge = j.pledges[msg.sender];
        uint64 bit = _seatedBit(pledge.seatPlusOne);
        require(current.committed & bit == 0, AlreadyCommitted(msg.sender));

        // Whoever commits has missed nothing.
        (pledge.misses, pledge.commitment) = (0, commitment);
        uint64 committed = current.committed | bit;
        current.committed = committed;
        if (_isComplete(committed, current.seated, current.least)) {
            current.commitEnd = uint32(block.timestamp);
            current.revealEnd = uint32(block.timestamp + j.terms.revealWindow);
        }

        emit Committed(job, round, msg.sender, commitment);
    }

    /// @inheritdoc ITrainingLedger
    function reveal(JobId job, bytes32 digest, bytes32 root, bytes32 salt) external {
        Job storage j = _jobs[job];
        Round storage current = j.round;
        if (
            current.stage != Stage.Open || block.timestamp < current.commitEnd || block.timestamp >= current.revealEnd
                || _count(current.committed) < current.least
        ) revert WrongPhase(phaseAt(job, block.timestamp));
        Pledge storage pledge = j.pledges[msg.sender];
        uint64 bit = _seatedBit(pledge.seatPlusOne);
        require(current.committed & bit != 0, NotCommitted(msg.sender));
        require(current.revealed & bit == 0, AlreadyRevealed(msg.sender));
        require(
            pledge.commitment == commitmentFor(job, current.number, msg.sender, digest, root, salt),
            CommitmentMismatch(pledge.commitment)
        );

        uint64 revealed = current.revealed | bit;
        current.revealed = revealed;
        if (revealed == current.committed) current.revealEnd = uint32(block.timestamp);

        emit Revealed(job, current.number, msg.sender, digest, root, salt);
    }

    /// @inheritdoc ITrainingLedger
    function commitMasked(JobId job, uint24 round, uint16 attempt, bytes32 digest) external {
        Job storage j = _jobs[job];
        Round storage current = j.round;
        if (current.stage != Stage.Masking || block.timestamp >= current.commitEnd) {
            revert WrongPhase(phaseAt(job, block.timestamp));
        }
        require(round == current.number && attempt == current.attempt, WrongRound(current.number, current.attempt));
        uint64 bit = _seatedBit(j.pledges[msg.sender].seatPlusOne);
        uint64 cohort = j.state.cohort;
        require(cohort & bit != 0, NotInCohort(msg.sender));
        require(current.committed & bit == 0, AlreadyCommitted(msg.sender));
        require(digest != 0, ZeroDigest());

        uint64 committed = current.committed | bit;
        current.committed = committed;
        if (_isComplete(committed, _count(cohort), current.least)) {
            (current.commitEnd, current.revealEnd) = (uint32(block.timestamp), uint32(block.timestamp));
        }

        emit CommittedMasked(job, round, attempt, msg.sender, digest);
    }

    /// @inheritdoc ITrainingLedger
    function unmask(JobId job, uint24 round, uint16 attempt, bytes32 digest) external {
        Job storage j = _jobs[job];
        Round storage current = j.round;
        if (current.stage != Stage.Unmasking || block.timestamp >= current.revealEnd) {
            revert WrongPhase(phaseAt(job, block.timestamp));
        }
        require(round == current.number && attempt == current.attempt, WrongRound(current.number, current.attempt));
        Pledge storage pledge = j.pledges[msg.sender];
        uint64 bit = _seatedBit(pledge.seatPlusOne);
        require(current.committed & bit != 0, NotCommitted(msg.sender));
        require(current.revealed & bit == 0, AlreadyRevealed(msg.sender));
        require(digest != 0, ZeroDigest());

        // Only now: a commitment that cannot be fetched is a miss, however often it is made.
        if (pledge.misses != 0) pledge.misses = 0;
        uint64 revealed = current.revealed | bit;
        current.revealed = revealed;
        if (revealed == current.committed) current.revealEnd = uint32(block.timestamp);

        emit Unmasked(job, round, msg.sender, digest);
    }

    /* ANYONE */

    /// @inheritdoc ITrainingLedger
    function restartRound(JobId job) external {
        Job storage j = _existing(job);
        Phase phase = phaseAt(job, block.timestamp);
        require(phase == Phase.Starved, WrongPhase(phase));

        Round memory current = j.round;
        // No penalties: with too few commitments nobody could reveal, and where nobody did, all are alike.
        _countMisses(job, j, current, j.state.seats & ~current.committed);
        emit RoundStarved(job, current.number, current.attempt);
        if (current.attempt == type(uint16).max) {
            _end(job, j, current, Outcome.Abandoned);
        } else {
            current.attempt += 1;
            _openOrWait(job, j, current);
        }
        j.round = current;
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
        if (current.stage == Stage.Disclosing) {
            _end(job, j, current, current.number == j.terms.rounds ? Outcome.Completed : Outcome.Withdrawn);
            j.round = current;
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
        return _phaseAt(j, j.round, timestamp);
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
        return Member(pledge.seatPlusOne, pledge.misses, entry.excused, entry.samples, entry.stake);
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
    ) public view returns (bytes30) {
        return bytes30(keccak256(abi.encode(block.chainid, address(this), job, round, participant, digest, root, salt)));
    }

    /// @inheritdoc ITrainingLedger
    function creditOf(JobId job, address account) public view returns (uint256 credit) {
        Job storage j = _existing(job);
        credit = j.credits[account];
        uint8 seatPlusOne = j.pledges[account].seatPlusOne;
        if (seatPlusOne != 0) credit += j.seats[seatPlusOne - 1].earned;
    }

    /* INTERNAL: ROUNDS */

    // `current` is a copy of `j.round`, which these change; the function that made it writes it back, once, at its end.

    /// @dev See `phaseAt`.
    function _phaseAt(Job storage j, Round memory current, uint256 timestamp) internal view returns (Phase) {
        uint256 settleEnd = uint256(current.revealEnd) + j.terms.settleWindow;
        if (current.stage == Stage.Waiting) return Phase.Waiting;
        if (current.stage == Stage.Over) return Phase.Over;
        if (current.stage == Stage.Disclosing) return timestamp < settleEnd ? Phase.Disclosing : Phase.Overdue;
        if (timestamp < current.commitEnd) return Phase.Committing;
        if (_count(current.committed) < current.least) return Phase.Starved;
        if (current.stage == Stage.Masking) return timestamp < settleEnd ? Phase.Counting : Phase.Overdue;
        if (timestamp < current.revealEnd) return Phase.Revealing;
        if (current.revealed == 0) return Phase.Starved;
        return timestamp < settleEnd ? Phase.Settling : Phase.Overdue;
    }

    /// @dev Starts over with an empty attempt: open if it can be, waiting otherwise.
    function _openOrWait(JobId job, Job storage j, Round memory current) internal {
        if (_isMasked(current)) current.least = j.terms.minParticipants;
        _clear(current, Stage.Waiting);
        if (current.seated >= current.least && _isBonded(j, _servingCoordinator(j))) {
            current.commitEnd = uint32(block.timestamp + j.terms.commitWindow);
            if (j.terms.masked) {
                (current.stage, current.revealEnd) = (Stage.Masking, current.commitEnd);
                j.state.cohort = j.state.seats;
                uint8 holders = (2 * current.seated + 2) / 3;
                if (current.least < holders) current.least = holders;
            } else {
                (current.stage, current.revealEnd) = (Stage.Open, current.commitEnd + j.terms.revealWindow);
            }
            emit RoundOpened(job, current.number, current.attempt, current.commitEnd, current.revealEnd);
        }
    }

    /// @dev Ends a job; while settled rounds cannot be redone for want of the validation set, it waits for the key first.
    function _endOnceDisclosed(JobId job, Job storage j, Round memory current, Outcome outcome) internal {
        if (!_withholds(j, current)) {
            _end(job, j, current, outcome);
            return;
        }
        // They are the heirs of a bond that is forfeited.
        uint64 heirs = current.revealed;
        _clear(current, Stage.Disclosing);
        (current.revealed, current.revealEnd) = (heirs, uint32(block.timestamp));
        emit DisclosureDue(job, outcome, current.revealEnd + j.terms.settleWindow);
    }

    /// @dev Ends a job. What is left in escrow goes back to the sponsor: all that anybody has earned was paid out of it.
    function _end(JobId job, Job storage j, Round memory current, Outcome outcome) internal {
        uint128 refund = j.state.escrow;
        j.state.escrow = 0;
        j.credits[j.state.sponsor] += refund;
        _clear(current, Stage.Over);

        emit JobEnded(job, outcome, refund);
    }

    function _clear(Round memory current, Stage stage) internal pure {
        (current.stage, current.commitEnd, current.revealEnd) = (stage, 0, 0);
        (current.committed, current.revealed) = (0, 0);
    }

    /// @dev Everyone who can has committed, and they are enough.
    function _isComplete(uint64 committed, uint256 awaited, uint8 least) internal pure returns (bool) {
        uint256 commits = _count(committed);
        return commits == awaited && commits >= least;
    }

    function _isMasked(Round memory current) internal pure returns (bool) {
        return current.stage == Stage.Masking || current.stage == Stage.Unmasking;
    }

    /// @dev One number for round and attempt; 0 is none.
    function _attemptPlusOne(Round memory current) internal pure returns (uint40) {
        return (uint40(current.number) << 16 | current.attempt) + 1;
    }

    /// @dev Whether a round was settled with a validation set whose key is not on chain.
    function _withholds(Job storage j, Round memory current) internal view returns (bool) {
        return current.number != 0 && j.terms.validationLock != 0 && j.state.validationKey == 0;
    }

    /// @dev Takes the penalties of those who committed and did not reveal, which it returns, and counts the misses of those
    /// who did not commit. Whoever revealed keeps its seat.
    function _closeAttempt(JobId job, Job storage j, Round memory current) internal returns (uint256 penalties) {
        // Before a count there was nothing to reveal.
        uint64 silent = current.stage == Stage.Masking ? 0 : current.committed & ~current.revealed;
        penalties = _takePenalties(job, j, current, silent);
        _countMisses(job, j, current, j.state.seats & ~current.committed);
    }

    function _takePenalties(JobId job, Job storage j, Round memory current, uint64 silent)
        internal
        returns (uint256 penalties)
    {
        uint96 penalty = silent == 0 ? 0 : j.terms.revealPenalty;
        for (uint8 seat; silent >> seat != 0; seat++) {
            if (silent & _bit(seat) == 0) continue;
            address participant = j.seats[seat].participant;
            Entry storage entry = j.entries[participant];
            // Cannot underflow because whoever could not pay once more lost its seat below.
            entry.stake -= penalty;
            penalties += penalty;
            emit PenaltyTaken(job, current.number, participant, penalty);
            if (entry.stake < penalty) _unseat(job, j, current, seat, Departure.Exhausted);
        }
    }

    function _countMisses(JobId job, Job storage j, Round memory current, uint64 absent) internal {
        uint8 missLimit = absent == 0 ? 0 : j.terms.missLimit;
        for (uint8 seat; absent >> seat != 0; seat++) {
            if (absent & _bit(seat) == 0) continue;
            address participant = j.seats[seat].participant;
            Entry storage entry = j.entries[participant];
            Pledge storage pledge = j.pledges[participant];
            if (entry.excused) entry.excused = false;
            else if (pledge.misses + 1 < missLimit) pledge.misses += 1;
            // One that comes again has no more to spare than it had.
            else _unseat(job, j, current, seat, Departure.Missing);
        }
    }

    /// @dev Frees a seat; what is left of the stake and what was earned in the seat become credit.
    function _unseat(JobId job, Job storage j, Round memory current, uint8 seat, Departure departure) internal {
        address participant = j.seats[seat].participant;
        uint256 stake = j.entries[participant].stake;

        j.credits[participant] += stake + j.seats[seat].earned;
        j.pledges[participant] = Pledge({seatPlusOne: 0, misses: j.pledges[participant].misses, commitment: 0});
        uint40 left;
        if (_isMasked(current)) {
            left = _attemptPlusOne(current);
            j.state.cohort &= ~_bit(seat);
        }
        j.entries[participant] = Entry({returning: true, excused: false, left: left, samples: 0, stake: 0});
        delete j.seats[seat];
        j.state.seats &= ~_bit(seat);
        current.seated -= 1;

        emit Left(job, participant, seat, departure, stake);
    }

    /* INTERNAL: MONEY */

    /// @dev Divides `pot` among the accepted seats by score, rounding down; returns what was paid.
    function _payInProportion(Job storage j, uint64 accepted, uint32[] calldata scores, uint256 pot, uint256 total)
        internal
        returns (uint256 paid)
    {
        uint256 i;
        // Cannot overflow because a pot is wei that exist, fewer than 2^96, and a score has 32 bits.
        unchecked {
            for (uint256 seat; accepted >> seat != 0; seat++) {
                if (accepted >> seat & 1 == 0) continue;
                uint256 share = pot * scores[i++] / total;
                paid += share;
                j.seats[seat].earned += uint96(share);
            }
        }
    }

    /// @dev Divides `amount` equally among `seats`, rounding down; returns what was paid.
    function _payEqually(JobId job, Job storage j, uint64 seats, uint256 amount) internal returns (uint256 paid) {
        uint256 payees = _count(seats);
        uint256 share = payees == 0 ? 0 : amount / payees;
        if (share == 0) return 0;
        for (uint8 seat; seats >> seat != 0; seat++) {
            if (seats & _bit(seat) != 0) j.seats[seat].earned += uint96(share);
        }
        emit Shared(job, seats, share);
        return share * payees;
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

    /* INTERNAL: LOOK-UP */

    function _checkWindow(uint32 window) internal view {
        require(window >= leastWindow && window <= MOST_WINDOW, BadWindow(leastWindow, MOST_WINDOW));
    }

    /// @dev Merkle root of one leaf and its path.
    function _isAdmitted(bytes32 root, address account, bytes32[] calldata proof) internal pure returns (bool) {
        // Twice, so that no inner node is a leaf.
        bytes32 node = keccak256(abi.encode(keccak256(abi.encode(account))));
        for (uint256 i; i < proof.length; i++) {
            node = node < proof[i] ? keccak256(abi.encode(node, proof[i])) : keccak256(abi.encode(proof[i], node));
        }
        return root == 0 || node == root;
    }

    /// @dev The job, if it is the one that the caller means.
    function _agreed(JobId job, bytes32 termsHash) internal view returns (Job storage j) {
        j = _existing(job);
        require(termsHash == j.state.termsHash, WrongTerms(j.state.termsHash));
    }

    function _existing(JobId job) internal view returns (Job storage j) {
        j = _jobs[job];
        require(j.state.sponsor != address(0), UnknownJob(job));
    }

    /// @dev The bit of the caller, whose seat plus one this is.
    function _seatedBit(uint8 seatPlusOne) internal view returns (uint64) {
        require(seatPlusOne != 0, NotSeated(msg.sender));
        return _bit(seatPlusOne - 1);
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

    /// @dev The number of bits set: those of pairs, fours and eights side by side, then of all in the eighth byte.
    function _count(uint64 bits) internal pure returns (uint256 ones) {
        ones = bits;
        // Cannot overflow because a sum of bits needs fewer bits than it has.
        unchecked {
            ones -= (ones >> 1) & 0x5555555555555555;
            ones = (ones & 0x3333333333333333) + ((ones >> 2) & 0x3333333333333333);
            ones = (ones + (ones >> 4)) & 0x0f0f0f0f0f0f0f0f;
            ones = (ones * 0x0101010101010101) >> 56 & 0xff;
        }
    }
}
