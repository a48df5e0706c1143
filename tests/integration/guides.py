"""Does what a guide says, in real terminals, and compares what they show with what the guide shows.

A guide is Markdown with fenced blocks:

    ```sh ann             commands for a terminal on the machine `ann`; `ann/ipfs` is another one on the same machine
    ```text               what that terminal shows next, line by line, perhaps with others in between
    ```toml job.toml      a file to save in the home of the machine used next

In what is shown, `…` stands for anything, and numbers, addresses and CIDs may be others. If its last line is `…` alone,
the command goes on; it is interrupted (Ctrl-C) when its terminal is needed again, or at the end.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

Found = TypeVar("Found")

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0  # seconds of silence; only so that a test that waits in vain ends
PROMPT = re.compile(r"⟦(\d+)⟧$")
ANSWERS = {r"([Pp]assword|Password of \w+|confirmation): $": "secret", r"\[y/N\]: $": "y"}
"""What a person types where a command asks."""


@dataclass(frozen=True, slots=True)
class Block:
    kind: str  # sh, text, or a language that files are written in
    name: str  # a terminal, or a file
    text: str

    @property
    def machine(self) -> str:
        return self.name.split("/")[0]

    @property
    def commands(self) -> list[str]:
        """Without comments; a line that ends in a backslash goes on in the next one."""
        lines = self.text.replace("\\\n", "").splitlines()
        return [command for line in lines if (command := re.sub(r"(^|\s)#.*", "", line).strip())]


def blocks(guide: Path) -> list[Block]:
    found = re.findall(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", guide.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(*parts) for parts in found]


def commands(guide: Path) -> list[str]:
    return [command for block in blocks(guide) if block.kind == "sh" for command in block.commands]


class Terminal:
    """A shell in a terminal of 140 columns, with somebody who answers when it asks."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.screen, self._answered = "", 0
        self._news = threading.Condition()
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 140, 0, 0))
        plain = {"PS1": "⟦$?⟧", "PS2": "", "TERM": "xterm", "NO_COLOR": "1"}
        self._shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "--noediting", "+H", "-i"],
            cwd=home, env={**environment, "HOME": str(home), **plain},
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY),  # so that Ctrl-C is a signal
        )  # fmt: skip
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.await_prompt(0)

    def type(self, text: str) -> int:
        """Gives the place on the screen from which on there is only what comes of it."""
        with self._news:
            place = len(self.screen)
            os.write(self._ours, text.encode())
            return place

    def interrupt(self) -> int:
        """Ctrl-C, unless the shell waits for a command already. Gives the status of what was interrupted."""
        if waiting := PROMPT.search(self.screen):
            return int(waiting[1])
        return self.await_prompt(self.type("\x03"))

    def await_prompt(self, place: int) -> int:
        """The exit status of the command that was typed at `place`."""
        return int(self._await(lambda text: PROMPT.search(text), place, "the command to end")[1])

    def await_line(self, line: str, place: int, *, typed: int) -> int:
        """Where the first line after `place` ends that looks like `line`. The command was typed at `typed`."""
        wanted = shape(line)

        def look(text: str) -> int | None:
            end = place
            for shown in text.splitlines(keepends=True):
                end += len(shown)
                if shown.endswith("\n") and wanted.fullmatch(_normal(shown)):
                    return end
            assert not PROMPT.search(self.screen[typed:]), f"{line!r} is not among what it shows:\n{text}"
            return None

        return self._await(look, place, f"{line!r}")

    def close(self) -> None:
        with suppress(OSError):
            os.write(self._ours, b"\x03")
            os.write(self._ours, b"exit\n")
        try:
            self._shell.wait(20)
        except subprocess.TimeoutExpired:
            self._shell.kill()
            self._shell.wait()
        self._reader.join(5)
        os.close(self._ours)

    def _await(self, look: Callable[[str], Found | None], place: int, what: str) -> Found:
        with self._news:
            while (found := look(self.screen[place:])) is None:
                assert self._news.wait(PATIENCE), f"waited in vain for {what}:\n{self.screen[place:]}"
            return found

    def _answer(self) -> None:
        for question, answer in ANSWERS.items():
            if re.search(question, self.screen[self._answered :]):
                self._answered = len(self.screen)
                os.write(self._ours, f"{answer}\n".encode())

    def _read(self) -> None:
        decode, rest = codecs.getincrementaldecoder("utf-8")("replace").decode, ""
        while True:
            try:
                piece = os.read(self._ours, 1 << 16)
            except OSError:
                return
            if not piece:
                return
            whole = re.fullmatch(r"(.*?)(\r?(\x1b(\[[0-9;?]*)?)?)", rest + decode(piece), re.DOTALL)
            assert whole is not None
            text, rest = whole[1], whole[2]  # a sequence that is cut off has to wait for its end
            with self._news:
                first, *others = text.split("\r\x1b[K")
                self.screen += _plain(first)
                for other in others:  # in place of what the line showed before
                    self.screen = self.screen[: self.screen.rfind("\n") + 1] + _plain(other)
                self._answer()
                self._news.notify_all()


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text)


def shape(line: str) -> re.Pattern[str]:
    """What a shown line must look like to be the guide's."""
    return re.compile(".*".join(re.escape(part) for part in re.split(" ?… ?", _normal(line))))


def _normal(line: str) -> str:
    line = re.sub(r"^⟦\d+⟧|\^C", "", line)
    line = re.sub(r"\b(Qm|baf|12D3)\w{20,}", "CID", line)
    line = re.sub(r"\b0x[0-9a-fA-F]+(…[0-9a-fA-F]+)?", "0x", line)
    line = re.sub(r"\d[\d,.:]*\d|\d", "0", line)
    return " ".join(line.split())


@dataclass(slots=True)
class Reader:
    """Somebody who follows one guide to the letter."""

    guide: Path
    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    instead: dict[str, str] = field(default_factory=dict)
    """What stands in a command or file, and what the reader writes in its place; "machine: text" for one machine."""
    not_run: Mapping[str, str] = field(default_factory=dict)
    meanwhile: Mapping[str, Callable[[Reader], None]] = field(default_factory=dict)
    """What others do once a command was given."""
    afterwards: Mapping[str, Callable[[Reader, str], None]] = field(default_factory=dict)
    """What others do once a command has ended; they get what it showed."""
    terminals: dict[str, Terminal] = field(default_factory=dict)

    def follow(self) -> None:
        read = blocks(self.guide)
        for number, block in enumerate(read):
            after = read[number + 1 :]
            if block.kind == "sh":
                self.do(block, after[0].text.splitlines() if after and after[0].kind == "text" else [])
            elif block.kind != "text" and block.name:
                self.save(block, next((later.machine for later in after if later.kind == "sh"), ""))

    def save(self, block: Block, machine: str) -> None:
        (self.home(machine) / block.name).write_text(self._adapted(block.text, machine))

    def home(self, machine: str) -> Path:
        home = self.folder / (machine or "me")
        home.mkdir(exist_ok=True)
        return home

    def do(self, block: Block, shown: list[str]) -> None:
        goes_on = shown[-1:] == ["…"]
        lines = [line for line in shown if line.strip() not in ("", "…")]
        first = None
        for command in block.commands:
            is_last = command == block.commands[-1]
            place = self._type(block, command)
            first = first if place is None or first is not None else place
            if command in self.meanwhile:
                self.meanwhile[command](self)
            if is_last and first is not None and place is not None:
                for line in lines:
                    first = self.terminals[block.name].await_line(line, first, typed=place)
            if is_last and goes_on:
                return
            ended = self._ended(block.name, command, place)
            if command in self.afterwards:
                self.afterwards[command](self, ended)

    def _adapted(self, text: str, machine: str) -> str:
        for written, instead in self.instead.items():
            where, _, what = written.rpartition(": ")
            if where in ("", machine):
                text = text.replace(what, instead)
        return text

    def _type(self, block: Block, command: str) -> int | None:
        """Where on the terminal's screen begins what comes of it; None if it is one that is not run."""
        if command in self.not_run:
            return None
        terminal = self._terminal(block.name)
        status = terminal.interrupt()
        assert status in (0, 130), f"what ran before {command!r} ended with {status}:\n{terminal.screen}"
        return terminal.type(f"{self._adapted(command, block.machine)}\n")

    def _ended(self, name: str, command: str, place: int | None) -> str:
        if place is None:
            return ""
        status = self.terminals[name].await_prompt(place)
        shown = self.terminals[name].screen[place:]
        assert status == 0, f"{command!r} ended with {status}:\n{shown}"
        return shown

    def _terminal(self, name: str) -> Terminal:
        if name not in self.terminals:
            self.terminals[name] = Terminal(self.home(name.split("/")[0]), self._environment())
        return self.terminals[name]

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DEEPLEDGER_", "IPFS_"))}
        programs = [Path(sys.executable).parent, ROOT / "tests/services/bin"]
        path = os.pathsep.join([*map(str, programs), inherited["PATH"]])
        return inherited | {"PATH": path, "OMP_NUM_THREADS": "1", "IPFS_TELEMETRY": "off"} | dict(self.settings)


@contextmanager
def reading(guide: str, folder: Path, **options: Any) -> Iterator[Reader]:
    """Whatever still runs at the end is interrupted, the latest first, and must end as it should."""
    reader = Reader(ROOT / guide, folder, **options)
    try:
        yield reader
        for name, terminal in reversed(reader.terminals.items()):
            status = terminal.interrupt()
            assert status in (0, 130), f"{name} ended with {status}:\n{terminal.screen}"
    finally:
        for terminal in reversed(reader.terminals.values()):
            terminal.close()
