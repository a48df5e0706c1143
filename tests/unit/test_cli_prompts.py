"""What is asked for at a terminal: a real one, so that it shows whether secrets are echoed."""

from __future__ import annotations

import os
import pty
import re
import sys
from contextlib import suppress
from pathlib import Path

DEEPLEDGER = Path(sys.executable).parent / "deepledger"


def at_terminal(*arguments: str, home: Path, answers: list[tuple[str, str]]) -> tuple[int, str]:
    """Exit status and everything on the screen.

    Each answer is typed once its question stands there to its last space: what is typed earlier is thrown away.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("DEEPLEDGER_")}
    env |= {"DEEPLEDGER_HOME": str(home), "TERM": "dumb"}
    process, ours = pty.fork()
    if process == 0:
        os.execve(DEEPLEDGER, [DEEPLEDGER, *arguments], env)
    screen, seen, rest = "", 0, list(answers)
    with suppress(OSError):  # the terminal is gone when the process is
        while piece := os.read(ours, 4096):
            screen += piece.decode()
            if rest and (found := re.search(rest[0][0], screen[seen:])):
                seen += found.end()
                os.write(ours, f"{rest.pop(0)[1]}\n".encode())
    os.close(ours)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), screen


def test_a_new_password_is_asked_for_twice_and_never_echoed(tmp_path: Path) -> None:
    answers = [("New password: ", "correct horse"), ("Repeat for confirmation: ", "correct horse")]
    code, screen = at_terminal("account", "new", "me", home=tmp_path, answers=answers)
    assert code == 0, screen
    assert re.search("0x[0-9a-fA-F]{40}", screen)
    assert "correct horse" not in screen
    assert (tmp_path / "accounts/me.json").stat().st_mode & 0o777 == 0o600


def test_two_different_passwords_are_asked_for_again(tmp_path: Path) -> None:
    once = [("New password: ", "correct horse"), ("Repeat for confirmation: ", "corect horse")]
    again = [("New password: ", "battery staple"), ("Repeat for confirmation: ", "battery staple")]
    code, screen = at_terminal("account", "new", "me", home=tmp_path, answers=once + again)
    assert code == 0, screen
    assert "do not match" in screen
    assert "staple" not in screen


def test_a_private_key_is_asked_for_and_never_echoed(tmp_path: Path) -> None:
    key = "11" * 32
    answers = [("Private key: ", key), ("New password: ", "secret"), ("Repeat for confirmation: ", "secret")]
    code, screen = at_terminal("account", "import", "me", home=tmp_path, answers=answers)
    assert code == 0, screen
    assert key not in screen
    assert "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A" in screen
