"""Keys, cohorts, masks and packing: known answers, plain versions, and what is refused."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepledger.protocol.errors import BadInput, BadVector
from deepledger.protocol.formats.packing import pack, unpack
from deepledger.protocol.privacy.cohort import Cohort, cohort_of, weights
from deepledger.protocol.privacy.mask_keys import (
    is_usable,
    letter_key,
    mask_key,
    pair_seed,
)
from deepledger.protocol.privacy.masked_updates import mask_update
from deepledger.protocol.privacy.masks import BLOCK, add_masks

from .masked_rounds import CONTEXT, cohort_with, key_of, masked_by, members_with

LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (2**255 - 20).to_bytes(32, "little"),  # p − 1
    (2**255 - 19).to_bytes(32, "little"),  # p, another way to write 0
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


def plain_pack(values: list[int], bits: int) -> bytes:
    whole = sum(value << place * bits for place, value in enumerate(values))
    return whole.to_bytes(-(-len(values) * bits // 8), "little")


@given(bits=st.integers(1, 32), data=st.data())
def test_packing_is_one_long_little_endian_number(bits: int, data) -> None:
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=70))
    packed = pack(np.array(values, np.uint32), bits)
    assert packed == plain_pack(values, bits)
    assert unpack(packed, bits, coordinates=len(values)).tolist() == values
    with pytest.raises(BadVector, match="expected"):
        unpack(packed + b"\0", bits, coordinates=len(values))


def test_a_mask_is_aes_in_counter_mode() -> None:
    """The first words by hand, those of a later block by the whole, and that what is added is taken away again."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    seed, count = b"s" * 16, BLOCK + 100
    key = sha256(b"deepledger: mask" + seed).digest()
    counters = b"".join(counter.to_bytes(16) for counter in range(-(-count // 4)))
    stream = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(counters)
    total = np.zeros(count, np.uint32)
    add_masks(total, plus=[seed])
    assert np.array_equal(total, np.frombuffer(stream, "<u4", count))
    part = np.zeros(60, np.uint32)
    add_masks(part, plus=[seed], start=BLOCK)
    assert np.array_equal(part, total[BLOCK : BLOCK + 60])
    add_masks(total, plus=[b"t" * 16], minus=[seed, b"t" * 16])
    assert not total.any()


def test_a_key_is_the_accounts_own_in_one_job() -> None:
    def key(**changed):
        where = {"chain_id": 1, "contract": "0x" + "11" * 20, "job": 7} | changed
        return mask_key(b"\1" * 32, **where).word

    others = [key(chain_id=2), key(contract="0x" + "12" * 20), key(job=8)]
    assert len({key(), *others, mask_key(b"\2" * 32, chain_id=1, contract="0x" + "11" * 20, job=7).word}) == 5
    assert key() == key()


@pytest.mark.parametrize("public", LOW_ORDER)
def test_a_key_of_low_order_is_refused_by_name_and_left_out(public: bytes) -> None:
    assert not is_usable(public)
    with pytest.raises(BadInput, match="0xEve"):
        key_of(0).shared_with(public, of="0xEve")
    members = members_with(dict.fromkeys(range(4), 1))
    members[1] = type(members[1])(1, members[1].participant, public)
    cohort = cohort_of(members, context=CONTEXT, update_bits=16)
    assert [member.seat for member in cohort.members] == [0, 2, 3]
    with pytest.raises(BadInput, match="is none"):  # whoever would not leave it out
        mask_update(Cohort(CONTEXT, tuple(members), 16), 0, np.zeros(4, np.int16), key=key_of(0))


def test_seeds_are_a_pairs_own_and_letters_have_a_direction() -> None:
    cohort = cohort_with({0: 1, 1: 1, 2: 1})
    one, other, third = (member.participant for member in cohort.members)
    shared = key_of(0).shared_with(cohort.member(1).key, of=other)
    assert shared == key_of(1).shared_with(cohort.member(0).key, of=one)
    seeds = [pair_seed(shared, binding=cohort.binding, one=a, other=b) for a, b in [(one, other), (other, one)]]
    assert seeds[0] == seeds[1] != pair_seed(shared, binding=cohort.binding, one=one, other=third)
    ways = [(one, other, b"a" * 16), (other, one, b"a" * 16), (one, other, b"b" * 16)]
    keys = {letter_key(shared, binding=cohort.binding, author=a, holder=b, salt=salt) for a, b, salt in ways}
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("samples", "bits", "expected"),
    [
        ([5, 900, 7], 0, [1, 1, 1]),
        ([100, 100], 8, [1, 1]),
        ([1, 255], 8, [1, 255]),
        ([1, 10_000], 4, [1, 15]),
        ([50, 100], 2, [2, 3]),  # 1.5 and 3: half to even
        ([3, 6, 9], 2, [1, 2, 3]),
        ([2, 4], 4, [8, 15]),  # 7.5: half to even
    ],
)
def test_weights_are_small_and_in_proportion(samples, bits, expected) -> None:
    assert weights(samples, bits) == expected


def test_what_cannot_mask_together_is_refused() -> None:
    one, other = members_with({0: 1, 1: 1})
    for members, reason in [
        ([other, one], "by seat"),
        ([one, type(one)(1, one.participant, other.key)], "one seat"),
        ([one, type(one)(1, other.participant, other.key, 0)], "above zero"),
        ([one, type(one)(1, other.participant, other.key, 1 << 20)], "lower update.bits"),
    ]:
        with pytest.raises(BadInput, match=reason):
            Cohort(CONTEXT, tuple(members), 16)
    with pytest.raises(BadInput, match="block's hash"):
        cohort_with(dict.fromkeys(range(65), 1))
    cohort = cohort_with({0: 1, 1: 1})
    with pytest.raises(BadInput, match="seat 5"):
        cohort.member(5)
    for counted in [{0}, set(), {0, 9}]:
        with pytest.raises(BadInput):
            cohort.summed(counted)


def test_two_that_see_another_cohort_share_nothing() -> None:
    cohort = cohort_with({0: 1, 1: 1, 2: 1})
    others = [cohort_with({0: 1, 1: 1, 2: 2}), cohort_with({0: 1, 1: 1}), cohort_with({0: 1, 1: 1, 2: 1}, bits=8)]
    assert len({each.binding for each in [cohort, *others]}) == 4


def test_neighbours_and_holders_are_drawn_by_a_block() -> None:
    seats = dict.fromkeys(range(200), 1)
    cohort, other = (cohort_with(seats, drawn_from=bytes([byte]) * 32) for byte in (1, 2))
    for seat in seats:
        assert len(set(cohort.neighbours(seat)) - {seat}) == 28
        assert len(set(cohort.holders(seat))) == 64
        assert seat in cohort.holders(seat)
        assert all(seat in cohort.neighbours(each) for each in cohort.neighbours(seat))
        assert len(cohort.authors(seat, seats)) == 64
    assert cohort.neighbours(0) != other.neighbours(0)
    assert set(cohort.neighbours(0)) - set(cohort.holders(0))  # two rings, not one
    alone = {0, *(set(seats) - set(cohort.neighbours(0)))}
    with pytest.raises(BadInput, match="not linked"):
        cohort.summed(alone)


def test_groups_are_drawn_by_a_block_and_mask_apart() -> None:
    """As many as can be of those that are wanted, known by their lowest seats, in which everybody masks with all."""
    seats = dict.fromkeys(range(20), 1)
    cohort, other = (cohort_with(seats, drawn_from=bytes([byte]) * 32, most_groups=6, least=3) for byte in (1, 2))
    assert sorted(len(group) for group in cohort.groups) == [3, 3, 3, 3, 4, 4]
    assert cohort.groups != other.groups
    assert cohort.modulus_bits == 16 + 2  # four weigh 4 at the most
    for group in cohort.groups:
        for seat in group:
            assert cohort.group_of(seat) == min(group)
            assert set(cohort.neighbours(seat)) == set(group) - {seat}
            assert set(cohort.holders(seat)) == set(seats)
    few = cohort_with(dict.fromkeys(range(8), 1), drawn_from=bytes(32), most_groups=6, least=3)
    assert sorted(len(group) for group in few.groups) == [4, 4]
    with pytest.raises(BadInput, match="block's hash"):
        cohort_with(seats, most_groups=2)


def test_what_is_not_drawn_is_not_bound_to_a_block() -> None:
    """The chain may take that one back, and letters are good in the one that comes instead."""
    seats = dict.fromkeys(range(20), 1)
    bindings = [cohort_with(seats, drawn_from=bytes([byte]) * 32).binding for byte in (1, 2)]
    assert bindings[0] == bindings[1]


def test_large_groups_have_few_neighbours_each() -> None:
    cohort = cohort_with(dict.fromkeys(range(200), 1), drawn_from=b"1" * 32, most_groups=2)
    for group in cohort.groups:
        for seat in group:
            assert len(set(cohort.neighbours(seat)) & set(group) - {seat}) == 28
            assert len(cohort.holders(seat)) == 64


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (np.zeros(4, np.float32), "integers"),
        (np.zeros((2, 2), np.int16), "row"),
        (np.full(4, 2**15, np.int32), "16 bits"),
    ],
)
def test_an_update_that_does_not_fit_is_refused(update, reason) -> None:
    with pytest.raises(BadInput, match=reason):
        masked_by(cohort_with({0: 1, 1: 1}), 0, update)


def test_only_the_owner_of_a_key_masks_with_it() -> None:
    with pytest.raises(BadInput, match="not the one"):
        mask_update(cohort_with({0: 1, 1: 1}), 0, np.zeros(4, np.int16), key=key_of(1))
