"""A job on a chain: where it stands, what it trained, and who may say that it is right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepledger.api.joining import Agreement, agreement_of
from deepledger.api.model import Model
from deepledger.api.model import fetch as fetch_checked
from deepledger.api.network import Network
from deepledger.api.progress import Cell, bars, in_notebook
from deepledger.api.shown import Rows
from deepledger.api.status import Round, Status, Work, status_of
from deepledger.api.trail import Entry, trail_of
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.fetch import fetch_spec
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.types import JobId

if TYPE_CHECKING:
    from deepledger.api.account import Account


class Job:
    """Whatever is asked of it is read from the chain and the blob store then. Nothing of that is derived again:
    `deepledger.audit` does.
    """

    def __init__(self, number: int, network: Network | None = None) -> None:
        network = network or Network.here()
        self.number = JobId(number)
        self.network = network
        self._reader, self._blobs = network.reader(), network.blobs()
        self._follower = Follower(self._reader, self.number)
        self._spec: JobSpec | None = None
        self._rounds: dict[str, Round] = {}

    @classmethod
    def open(cls, number: int, network: Network | None = None) -> Job:
        """A job by its number; without a network, of the one that the environment names.

        Raises `BadInput` if there is no such job, and as `Network` does.
        """
        return cls(number, network)

    @classmethod
    def create(
        cls,
        file: Path | str,
        *,
        account: Account,
        network: Network | None = None,
        coordinators: Sequence[str] = (),
        data: Path | str | None = None,
    ) -> Job:
        """Try a job file (TOML), publish what it takes, and lock its rewards in escrow, from this account.

        `coordinators`: addresses that settle, in order of succession, instead of the file's; by default the account
        itself. `data`: a participant's, to try rounds with, by default the validation set. Raises `BadInput` for what
        cannot be trained or settled, before anything is published or paid for.
        """
        from deepledger.api.creating import prepare, publish
        from deepledger.protocol.privacy.ecies import public_key_of

        network = network or Network.here()
        draft = prepare(
            Path(file),
            coordinators=coordinators,
            data=None if data is None else Path(data),
            least_window=lambda: network.reader().least_window(),
            own_key=lambda: public_key_of(account.secret),
        )
        return cls(publish(draft, network.ledger(account), network.blobs(writes=True)).job, network)

    @property
    def spec(self) -> JobSpec:
        """What is trained, and how; it never changes. Raises `BadSpec`, and `BlobError` where it cannot be had."""
        if self._spec is None:
            self._spec = fetch_spec(self._blobs, self._follower.job.terms)
        return self._spec

    def status(self) -> Status:
        """Where it stands now."""
        self._follower.update()
        return status_of(self._follower, self._reader, self._blobs, known=self._rounds)

    def rounds(self) -> Rows[Round]:
        """What is settled: results, verdicts and pay."""
        return self.status().history

    def participants(self) -> Rows[Work]:
        """Who is seated, or was, and what each has earned."""
        return self.status().participants

    def trail(self) -> Rows[Entry]:
        """Everything that happened, in chain order."""
        self._follower.update()
        return trail_of(self._reader, self.number, self._follower.head)

    def model(self, after: int | None = None) -> Model:
        """What was trained after so many settled rounds, 0: before any, by default all; checked against the chain."""
        return fetch_checked(self._follower.update(), self._reader, self._blobs, after=after)

    def agreement(self) -> Agreement:
        """What to read before taking part, and to hand to `deepledger.join`."""
        return agreement_of(self._follower.update(), self._reader, self._blobs)

    def watch(self) -> Iterator[Status]:
        """Its status now and whenever something changes, until it is over."""
        while True:
            status = self.status()
            yield status
            if status.outcome is not None:
                return
            self._follower.update(timeout=self._follower.patience())

    def live(self) -> Status:
        """Show it until it is over: a picture in a notebook's cell, a bar on a terminal. Interrupt to look away."""
        if in_notebook():
            cell = Cell()
            for status in self.watch():
                cell.show(status._repr_html_())
            return status
        with bars() as tell:
            for status in self.watch():
                tell(f"job {self.number}", status.settled, status.rounds)
        return status

    def __repr__(self) -> str:
        return f"Job({self.number} of {self._reader.address} on chain {self._reader.chain_id})"

    def _repr_html_(self) -> str:
        return self.status()._repr_html_()
