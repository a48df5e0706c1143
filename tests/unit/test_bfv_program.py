"""The program that encrypted jobs take: sums as plain ones are, under keys that only enough shares make."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from deepledger.cli.main import app
from deepledger.protocol.bfv import program as bfv
from deepledger.protocol.errors import BadInput, StateError
from tests.conftest import need

SEED = bytes(range(32))
MOST = (1 << 31) - 1
STANDARD = {1024: 29, 2048: 56, 4096: 111, 8192: 220, 16384: 440, 32768: 880}
"""Bits of a modulus at 128 bits of security, for uniform secrets and errors of 8 / √(2π): Albrecht et al. (2018,
"Homomorphic Encryption Security Standard", table 1, classical attacks).
"""


def is_prime(number: int) -> bool:
    """Miller and Rabin, with bases that are enough for 64 bits."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    return all(
        pow(base, odd, number) == 1 or any(pow(base, odd << k, number) == number - 1 for k in range(twos))
        for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    )


def test_parameters_have_128_bits_of_security_and_room_for_every_sum() -> None:
    source = (bfv.SOURCE / "main.go").read_text()
    told = {name: float(re.search(rf"\b{name} += (\d[\d.]*)", source)[1]) for name in ("sigma", "bound", "logN")}
    assert 2 ** told["logN"] == bfv.DEGREE
    assert bfv.MODULUS.bit_length() <= STANDARD[bfv.DEGREE]
    # A sum of two errors is known once the sum is: what is left of each is narrower by √2.
    assert told["sigma"] / 2**0.5 >= 8 / (2 * np.pi) ** 0.5
    assert told["bound"] >= 5.8 * told["sigma"]
    for prime in (bfv.MODULUS, bfv.PLAIN_MODULUS):
        assert is_prime(prime)
        assert prime % (2 * bfv.DEGREE) == 1
        assert str(prime) in source
    assert bfv.PLAIN_MODULUS > 1 << 32
    assert 2 * bfv.PLAIN_MODULUS * bfv.MOST_VECTORS * told["bound"] < bfv.MODULUS
    assert (1 << bfv.WORD_BITS - 1) < bfv.MODULUS < 1 << bfv.WORD_BITS


def encrypted(vectors: list[Any], *, holders: int = 4, threshold: int = 3) -> tuple[list[bytes], dict[int, bytes]]:
    """And the shares of the sum of keys, by place."""
    made = [bfv.encrypt(vector, seed=SEED, holders=holders, threshold=threshold) for vector in vectors]
    shares = {place: bfv.add_shares([own[place - 1] for _, own in made]) for place in range(1, holders + 1)}
    return [vector for vector, _ in made], shares


def opened(vectors: list[bytes], shares: dict[int, bytes], coordinates: int, **changed: Any) -> Any:
    fixed = {"seed": SEED, "shares": shares, "threshold": 3, "coordinates": coordinates, "most": MOST}
    return bfv.open_sum(vectors, **fixed | changed)


@pytest.mark.usefixtures("bfv_program")
class TestProgram:
    @settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_a_sum_is_that_of_the_plain_vectors_whichever_holders_are_left(self, data: st.DataObject) -> None:
        parties = data.draw(st.integers(1, 4))
        coordinates = data.draw(st.sampled_from([1, 7, 2047, 2048, 2049, 5000]))
        limit = (1 << 31) // parties - 1
        draw = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
        plain = [draw.integers(-limit, limit, coordinates, dtype=np.int32, endpoint=True) for _ in range(parties)]
        vectors, shares = encrypted(plain)
        left = data.draw(st.permutations(sorted(shares)))[: data.draw(st.integers(3, 4))]
        found = opened(vectors, {place: shares[place] for place in left}, coordinates)
        assert np.array_equal(found, sum(each.astype(np.int64) for each in plain))
        assert {len(vector) for vector in vectors} == {bfv.vector_bytes(coordinates)}

    def test_one_vector_is_another_each_time_and_none_opens_by_itself(self) -> None:
        plain = [np.full(3000, value, np.int32) for value in (5, 5, 7)]
        vectors, shares = encrypted(plain)
        assert vectors[0] != vectors[1]
        for some in (vectors[:1], vectors[:2], [vectors[0], vectors[0], vectors[2]]):
            with pytest.raises(bfv.NoKey):
                opened(some, shares, 3000)

    def test_fewer_shares_than_the_threshold_make_no_key(self) -> None:
        vectors, shares = encrypted([np.arange(10, dtype=np.int32)] * 3)
        with pytest.raises(bfv.NoKey):
            opened(vectors, {place: shares[place] for place in (1, 2)}, 10, threshold=2)

    def test_a_wrong_share_is_left_aside_where_enough_are_right_and_never_shifts_a_sum(self) -> None:
        plain = [np.arange(10, dtype=np.int32)] * 3
        vectors, shares = encrypted(plain, holders=7)
        wrong = shares | {1: os.urandom(bfv.BLOCK_BYTES), 3: bytes(bfv.BLOCK_BYTES)}
        wrong[2] = (shares[2][0] ^ 1).to_bytes() + shares[2][1:]
        assert np.array_equal(opened(vectors, wrong, 10, threshold=3), 3 * plain[0])
        for lie in (1, 2, 3):
            with pytest.raises(bfv.NoKey):
                opened(vectors, {place: wrong[place] for place in {lie, 4, 5}}, 10)

    @pytest.mark.parametrize(
        ("holders", "threshold", "wrong"),
        [
            (64, 43, 10),  # half of those above the threshold: computed
            (20, 14, 3),
            (5, 4, 1),  # all above it: all sets are tried
            (12, 8, 4),
        ],
    )
    @pytest.mark.parametrize("alike", [False, True])
    def test_as_many_wrong_shares_as_is_said_are_left_aside_and_whoever_chooses_them(
        self, holders: int, threshold: int, wrong: int, alike: bool
    ) -> None:
        vectors, shares = encrypted([np.arange(10, dtype=np.int32)], holders=holders, threshold=threshold)
        off = os.urandom(bfv.BLOCK_BYTES)
        for place in range(1, wrong + 1):  # alike: off by the same, so that they fit together as well as the right ones
            shares[place] = bfv.add_shares([shares[place], off if alike else os.urandom(bfv.BLOCK_BYTES)])
        assert np.array_equal(opened(vectors, shares, 10, threshold=threshold), np.arange(10))

    def test_a_vector_under_another_key_than_its_shares_make_spoils_the_sum_and_is_noticed(self) -> None:
        plain = [np.arange(5000, dtype=np.int32)] * 3
        vectors, shares = encrypted(plain)
        other, _ = bfv.encrypt(plain[0], seed=SEED, holders=4, threshold=3)
        for spoilt in (other, bytes(len(other)), vectors[0][: bfv.BLOCK_BYTES] + other[bfv.BLOCK_BYTES :]):
            with pytest.raises(bfv.NoKey):
                opened([spoilt, *vectors[1:]], shares, 5000)

    def test_another_seed_is_another_attempt(self) -> None:
        vectors, shares = encrypted([np.arange(10, dtype=np.int32)] * 3)
        with pytest.raises(bfv.NoKey):
            opened(vectors, shares, 10, seed=bytes(32))

    def test_a_sum_beyond_what_updates_can_add_up_to_is_told(self) -> None:
        vectors, shares = encrypted([np.full(10, 1000, np.int32)] * 3)
        assert opened(vectors, shares, 10, most=3000).max() == 3000
        with pytest.raises(bfv.BeyondRange, match="3000 at coordinate 0"):
            opened(vectors, shares, 10, most=2999)

    def test_a_sum_that_int32_does_not_hold_is_beyond_it_whatever_is_allowed(self) -> None:
        vectors, shares = encrypted([np.full(10, 1 << 30, np.int32)] * 2)
        with pytest.raises(bfv.BeyondRange, match="the sum is 2147483648 at coordinate 0"):
            opened(vectors, shares, 10, most=1 << 31)
        vectors, shares = encrypted([np.full(10, -1 << 30, np.int32)] * 2)
        assert opened(vectors, shares, 10, most=1 << 31).min() == -1 << 31

    def test_what_does_not_fit_is_refused_in_words(self) -> None:
        found = bfv.program()
        for arguments, sent in (
            ([], b""),
            (["decrypt"], b""),
            (["encrypt", "-coordinates=4"], bytes(99)),
            (["encrypt", "-coordinates=4", "-holders=4", "-threshold=5"], bytes(99)),
            (["encrypt", "-coordinates=4", "-holders=4", "-threshold=3"], bytes(47)),
            (["encrypt", "-coordinates=many"], b""),
            (["add", "-shares=2"], bytes(bfv.BLOCK_BYTES)),
            (["open", "-coordinates=4", "-vectors=1", "-threshold=1", "-points=1,1"], bytes(1 << 16)),
            (["open", "-coordinates=4", "-vectors=1", "-threshold=1", "-points=0"], bytes(1 << 16)),
            (["open", "-coordinates=4", "-vectors=1", "-threshold=2", "-points=1"], bytes(1 << 16)),
            (["open", "-coordinates=4", "-vectors=3", "-threshold=1", "-points=1"], bytes(100)),
        ):
            done = subprocess.run([found, *arguments], input=sent, capture_output=True)
            assert done.returncode not in (0, 3, 4), arguments
            assert done.stderr
            assert b"goroutine" not in done.stderr, arguments

    def test_bytes_of_the_right_length_are_a_vector_whatever_they_are(self) -> None:
        vectors, shares = encrypted([np.arange(10, dtype=np.int32)] * 3)
        for garbage in (b"\xff" * len(vectors[0]), os.urandom(len(vectors[0]))):
            with pytest.raises(bfv.NoKey):
                opened([garbage, *vectors[1:]], shares, 10)

    def test_what_is_cut_short_is_an_error_and_no_sum(self) -> None:
        vectors, shares = encrypted([np.arange(10, dtype=np.int32)] * 3)
        with pytest.raises(StateError, match="open failed"):
            opened([vectors[0][:-1], *vectors[1:]], shares, 10)

    def test_it_says_what_it_was_built_from(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        other = script(tmp_path, "echo 1234")
        monkeypatch.setenv(bfv.ENVIRONMENT, str(other))
        with pytest.raises(BadInput, match=r"another version of its source.*deepledger build-bfv"):
            bfv.program()


def script(folder: Path, text: str) -> Path:
    path = folder / "deepledger-bfv"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_without_the_program_one_is_told_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfv, "find_program", lambda: None)
    with pytest.raises(BadInput, match="deepledger-bfv, which is not here: `deepledger build-bfv` builds it"):
        bfv.add_shares([b""])


def test_a_program_is_looked_for_by_its_name_on_the_path_and_beside_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in ("named", "path", "beside")]
    for folder in folders:
        folder.mkdir()
        script(folder, "true")
    monkeypatch.setenv("PATH", str(folders[1]))
    monkeypatch.setattr(sys, "executable", str(folders[2] / "python"))
    monkeypatch.setenv(bfv.ENVIRONMENT, str(folders[0] / bfv.NAME))
    for folder in folders:
        assert bfv.find_program() == folder / bfv.NAME
        (folder / bfv.NAME).unlink()
        monkeypatch.delenv(bfv.ENVIRONMENT, raising=False)


def test_a_name_of_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(bfv.ENVIRONMENT, "/no/such/program")
    with pytest.raises(BadInput, match="which is not a program; correct or unset it"):
        bfv.program()


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("exec head -c 100 /dev/zero", "after 100 bytes"),
        ("echo no memory >&2; exit 1", "no memory"),
        ("kill -9 $$", "it ended with -9"),
        ("exec cat /dev/zero", "after 13825 bytes"),
    ],
)
def test_however_it_ends_there_is_an_error_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: str, said: str
) -> None:
    told = f'if [ "$1" = source ]; then echo {bfv.source_digest()}; exit; fi'
    monkeypatch.setenv(bfv.ENVIRONMENT, str(script(tmp_path, f"{told}\n{rest}")))
    with pytest.raises(StateError, match=said):
        bfv.add_shares([bytes(bfv.BLOCK_BYTES)])


def test_one_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = f'if [ "$1" = source ]; then echo {bfv.source_digest()}; exit; fi'
    monkeypatch.setenv(bfv.ENVIRONMENT, str(script(tmp_path, f"{told}\nexec sleep 100000")))
    monkeypatch.setattr(bfv, "_PATIENCE", 0.1)
    with pytest.raises(StateError, match="add failed: it was not done after 0 seconds"):
        bfv.add_shares([bytes(bfv.BLOCK_BYTES)])


def test_one_that_is_replaced_is_asked_again_what_it_was_built_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(bfv.ENVIRONMENT, str(script(tmp_path, f"echo {bfv.source_digest()}")))
    assert bfv.program() == tmp_path / bfv.NAME
    script(tmp_path, "echo of an older version")
    with pytest.raises(BadInput, match="another version of its source"):
        bfv.program()


def test_without_go_nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match=r"Go is not installed; install 1\.23"):
        bfv.build(tmp_path)


@pytest.mark.slow
def test_a_share_that_is_chosen_so_that_a_block_of_zeros_fits_is_found_out() -> None:
    need(shutil.which("go"), "go")
    done = subprocess.run(["go", "test", "."], cwd=bfv.SOURCE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_command_builds_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(shutil.which("go"), "go")
    made = CliRunner().invoke(app, ["build-bfv", "--into", str(tmp_path)])
    assert made.exit_code == 0, made.output
    monkeypatch.setenv(bfv.ENVIRONMENT, made.output.strip())
    assert bfv.program() == tmp_path / bfv.NAME
