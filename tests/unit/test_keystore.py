"""Keystore files: what they keep, what they refuse, and that nothing secret comes out of them by accident."""

from __future__ import annotations

import json
import logging
import traceback
from pathlib import Path

import pytest
from eth_account import Account

from deepledger.protocol.errors import BadKey, StateError
from deepledger.protocol.local import keystore

FAST = 2  # scrypt's cost; the real one takes seconds
KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
PASSWORD = "correct horse"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "accounts"


def test_a_new_account_is_listed_and_opens_with_its_password(folder: Path) -> None:
    entry = keystore.create(folder, "ann", PASSWORD, iterations=FAST)
    assert keystore.listing(folder) == [entry]
    assert keystore.unlock(folder, "ann", PASSWORD).address == entry.address
    assert keystore.unlock(folder, entry.address.lower(), PASSWORD).address == entry.address


@pytest.mark.parametrize("text", [KEY, "0x" + KEY, f"  {KEY}\n"])
def test_a_key_is_imported_however_it_is_written(folder: Path, text: str) -> None:
    entry = keystore.import_key(folder, "ann", text, PASSWORD, iterations=FAST)
    assert keystore.unlock(folder, "ann", PASSWORD).key.hex().removeprefix("0x") == KEY
    assert entry.address == Account.from_key(KEY).address


def test_a_file_holds_a_mask_secret_of_its_own_which_a_backup_keeps(folder: Path) -> None:
    entry = keystore.create(folder, "ann", PASSWORD, iterations=FAST)
    assert keystore.has_mask_secret(folder, "ann")
    secret = keystore.mask_secret(folder, "ann", PASSWORD)
    assert len(secret) == 32
    assert secret == keystore.mask_secret(folder, entry.address, PASSWORD)
    assert secret != bytes(keystore.unlock(folder, "ann", PASSWORD).key), "which a quantum computer has"
    keystore.import_key(folder, "copy", entry.path.read_text(), PASSWORD, iterations=FAST)
    assert keystore.mask_secret(folder, "copy", PASSWORD) == secret
    keystore.import_key(folder, "other", KEY, PASSWORD, iterations=FAST)
    assert keystore.mask_secret(folder, "other", PASSWORD) != secret
    with pytest.raises(BadKey, match="wrong password for the mask secret"):
        keystore.mask_secret(folder, "ann", "wrong")


def test_a_file_of_another_program_gets_a_mask_secret_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir()
    path = folder / "ann.json"
    path.write_text(json.dumps(Account.encrypt(KEY, PASSWORD, kdf="scrypt", iterations=FAST)))
    assert not keystore.has_mask_secret(folder, "ann")
    with pytest.raises(BadKey, match="wrong password"):
        keystore.mask_secret(folder, "ann", "wrong", iterations=FAST)
    assert not keystore.has_mask_secret(folder, "ann")
    secret = keystore.mask_secret(folder, "ann", PASSWORD, iterations=FAST)
    assert "make a new backup" in caplog.text
    assert keystore.mask_secret(folder, "ann", PASSWORD, iterations=FAST) == secret
    assert keystore.unlock(folder, "ann", PASSWORD).key.hex().removeprefix("0x") == KEY
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret.hex() not in path.read_text() + caplog.text


@pytest.mark.parametrize("damaged", [5, {}, {"crypto": {"kdf": "scrypt"}}])
def test_a_damaged_mask_secret_is_said_and_not_made_anew(folder: Path, damaged: object) -> None:
    entry = keystore.create(folder, "ann", PASSWORD, iterations=FAST)
    entry.path.write_text(json.dumps(json.loads(entry.path.read_text()) | {"mask_secret": damaged}))
    with pytest.raises(BadKey, match="damaged"):
        keystore.mask_secret(folder, "ann", PASSWORD, iterations=FAST)


def test_a_keystore_file_of_another_program_is_imported(folder: Path) -> None:
    document = json.dumps(Account.encrypt(KEY, PASSWORD, kdf="pbkdf2", iterations=FAST))
    keystore.import_key(folder, "ann", document, PASSWORD, iterations=FAST)
    assert keystore.unlock(folder, "ann", PASSWORD).address == Account.from_key(KEY).address
    with pytest.raises(BadKey, match="wrong password"):
        keystore.import_key(folder, "bob", document, "wrong", iterations=FAST)


def test_files_are_for_their_owner_only_and_leave_nothing_beside_them(folder: Path) -> None:
    entry = keystore.create(folder, "ann", PASSWORD, iterations=FAST)
    assert entry.path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == [entry.path]


def test_an_account_is_never_overwritten(folder: Path) -> None:
    entry = keystore.create(folder, "ann", PASSWORD, iterations=FAST)
    before = entry.path.read_bytes()
    with pytest.raises(BadKey, match="already an account ann"):
        keystore.import_key(folder, "ann", KEY, PASSWORD, iterations=FAST)
    assert entry.path.read_bytes() == before


@pytest.mark.parametrize("name", ["", "../ann", "a/b", ".hidden", "a b", "a\nb"])
def test_a_name_is_no_path(folder: Path, name: str) -> None:
    with pytest.raises(BadKey, match="no account name"):
        keystore.create(folder, name, PASSWORD, iterations=FAST)


def test_a_folder_that_cannot_be_written_is_said(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(StateError, match="cannot write"):
        keystore.create(folder / "deeper", "ann", PASSWORD, iterations=FAST)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"crypto": {}}', b'{"crypto": {}, "address": 5}',
     b'{"crypto": {}, "address": "0x12"}', b'{"address": "' + b"a" * 40 + b'"}', b"9" * 10_000],
)  # fmt: skip
def test_broken_files_are_passed_over(folder: Path, content: bytes) -> None:
    entry = keystore.create(folder, "ann", PASSWORD, iterations=FAST)
    (folder / "broken.json").write_bytes(content)
    (folder / "folder.json").mkdir()
    assert keystore.listing(folder) == [entry]


@pytest.mark.parametrize(
    "change",
    [
        {"crypto": None},
        {"crypto": {"kdf": "rot13"}},
        {"crypto": {"kdf": "scrypt", "kdfparams": {}}},
        {"version": 7},
        {"version": "3"},
        {"crypto": {"kdf": "scrypt", "kdfparams": {"n": 2**40, "r": 8, "p": 1, "dklen": 32, "salt": "00"}}},
        {"crypto": {"kdf": "scrypt", "kdfparams": {"n": 2**18, "r": 8, "p": 10**4, "dklen": 32, "salt": "00"}}},
        {"crypto": {"kdf": "scrypt", "kdfparams": {"n": 2, "r": 1, "p": 2**29, "dklen": 32, "salt": "00"}}},
        {"crypto": {"kdf": "pbkdf2", "kdfparams": {"c": 2**40, "prf": "hmac-sha256", "dklen": 32, "salt": "00"}}},
        {"crypto": {"kdf": "pbkdf2", "kdfparams": {"c": 10**6, "prf": "hmac-sha256", "dklen": 10**6, "salt": "00"}}},
    ],
)
def test_malformed_files_do_not_open_and_do_not_hang(folder: Path, change: dict[str, object]) -> None:
    entry = keystore.create(folder, "ann", PASSWORD, iterations=FAST)
    entry.path.write_text(json.dumps(json.loads(entry.path.read_text()) | change))
    with pytest.raises(BadKey):
        keystore.unlock(folder, "ann", PASSWORD)


def test_a_file_that_names_another_address_does_not_open(folder: Path) -> None:
    entry = keystore.create(folder, "ann", PASSWORD, iterations=FAST)
    entry.path.write_text(json.dumps(json.loads(entry.path.read_text()) | {"address": "ab" * 20}))
    with pytest.raises(BadKey, match="holds the key of"):
        keystore.unlock(folder, "ann", PASSWORD)


def test_an_unknown_account_is_answered_with_those_there_are(folder: Path) -> None:
    with pytest.raises(BadKey, match="none yet"):
        keystore.unlock(folder, "ann", PASSWORD)
    keystore.create(folder, "ann", PASSWORD, iterations=FAST)
    keystore.create(folder, "bob", PASSWORD, iterations=FAST)
    with pytest.raises(BadKey, match="there is ann, bob"):
        keystore.unlock(folder, "eve", PASSWORD)


def test_an_ambiguous_account_is_not_guessed(folder: Path) -> None:
    ann = keystore.create(folder, "ann", PASSWORD, iterations=FAST)
    keystore.create(folder, ann.address, PASSWORD, iterations=FAST)
    with pytest.raises(BadKey, match="rename"):
        keystore.unlock(folder, ann.address, PASSWORD)


def test_neither_key_nor_password_is_shown_anywhere(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    entry = keystore.import_key(folder, "ann", KEY, PASSWORD, iterations=FAST)
    shown = [repr(entry), repr(keystore.unlock(folder, "ann", PASSWORD)), entry.path.read_text()]
    attempts = [
        lambda: keystore.import_key(folder, "bob", KEY[:-1] + "z", PASSWORD),
        lambda: keystore.import_key(folder, "ann", KEY, PASSWORD),
        lambda: keystore.unlock(folder, "ann", PASSWORD + "?"),
        lambda: keystore.unlock(folder, "bob", PASSWORD),
    ]
    for attempt in attempts:
        with pytest.raises(BadKey) as caught:
            attempt()
        assert "\n" not in str(caught.value)
        shown += [str(caught.value), "".join(traceback.format_exception_only(caught.value))]
    text = "\n".join([*shown, caplog.text])
    assert KEY[:-1] not in text
    assert PASSWORD not in text


def test_a_password_comes_from_its_file_before_the_environment_before_the_prompt(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from file\r\nsecond line")
    file.chmod(0o600)
    assert keystore.read_password(file=file, value="from environment", prompt=lambda: "typed") == "from file"
    assert keystore.read_password(file=None, value="from environment", prompt=lambda: "typed") == "from environment"
    assert keystore.read_password(file=None, value=None, prompt=lambda: "typed") == "typed"
    with pytest.raises(BadKey, match="DEEPLEDGER_PASSWORD_FILE"):
        keystore.read_password(file=None, value=None, prompt=None)


def test_an_empty_password_file_is_no_password(tmp_path):
    file = tmp_path / "password"
    file.write_text("\nsecret\n")
    file.chmod(0o600)
    with pytest.raises(BadKey, match=r"the first line of the password file .* is empty"):
        keystore.read_password(file=file, value="from environment", prompt=lambda: "typed")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_password_file_that_cannot_be_read_is_said(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadKey, match="cannot read the password file"):
        keystore.read_password(file=file, value=None, prompt=None)


def test_a_password_file_that_others_may_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "password"
    file.write_text("secret")
    file.chmod(0o644)
    assert keystore.read_password(file=file, value=None, prompt=None) == "secret"
    assert "chmod 600" in caplog.text
    assert "secret" not in caplog.text
    caplog.clear()
    file.chmod(0o600)
    keystore.read_password(file=file, value=None, prompt=None)
    assert not caplog.text
