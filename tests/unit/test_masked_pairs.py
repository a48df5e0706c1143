"""Pairs without a mask in common: the sum is exact all the same, nobody is accused, and nobody is shown."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deepledger.protocol.errors import BadInput
from deepledger.protocol.privacy.masked_updates import mask_update, parse_letters
from deepledger.protocol.privacy.pairs import apart_in, may_lack, sound
from deepledger.protocol.privacy.unmasking import UNREAD, WITHHELD, rebuild, release, unmask_sum

from .masked_rounds import Lacking, cohort_with, key_of

COORDINATES = 21


class Round:
    """Members of whom some lack secrets with others: `lacks` has pairs of seats, of whom the first does."""

    def __init__(
        self, members: int, lacks: set[tuple[int, int]], *, seed: int = 0, hybrid: bool = True, **dealt: Any
    ) -> None:
        self.cohort = cohort_with(dict.fromkeys(range(members), 1), hybrid=hybrid, **dealt)
        self.keys = {
            seat: Lacking(key_of(seat), frozenset(key_of(other).word for one, other in lacks if one == seat))
            for seat in range(members)
        }
        rng = np.random.default_rng(seed)
        self.updates = {seat: rng.integers(-300, 300, COORDINATES).astype(np.int16) for seat in self.keys}
        self.masked = {
            seat: mask_update(self.cohort, seat, self.updates[seat], key=self.keys[seat]) for seat in self.keys
        }
        self.letters = {seat: parse_letters(self.cohort, seat, each.letters) for seat, each in self.masked.items()}
        self.blamed: set[int] = set()

    def release(self, seat: int, counted: set[int], *, unread: set[int] = frozenset()) -> bytes:
        read = {author: each for author, each in self.letters.items() if author not in unread}
        return release(self.cohort, seat, counted, read, key=self.keys[seat])

    def total(self, counted: set[int], releases: dict[int, bytes]) -> np.ndarray:
        rebuilt = rebuild(self.cohort, counted, self.letters, releases)
        assert (rebuilt.badly_shared, rebuilt.bad_shares, rebuilt.short) == ({}, {}, ())
        vectors = {seat: each.vector for seat, each in self.masked.items()}
        return unmask_sum(self.cohort, rebuilt, vectors, coordinates=COORDINATES)

    def expected(self, counted: set[int]) -> np.ndarray:
        return sum(self.updates[seat].astype(np.int64) for seat in counted)


@st.composite
def rounds(draw: Callable) -> tuple[int, set[tuple[int, int]], set[int], int, bool]:
    members = draw(st.integers(4, 10))
    pairs = [pair for one, other in combinations(range(members), 2) for pair in ((one, other), (other, one))]
    lacks = draw(st.sets(st.sampled_from(pairs), max_size=members))
    gone = draw(st.sets(st.integers(0, members - 1), max_size=members // 3))
    return members, lacks, set(range(members)) - gone, draw(st.integers(0, 2**32)), draw(st.booleans())


@given(played=rounds())
def test_the_sum_is_exact_whoever_shares_nothing_with_whom(
    played: tuple[int, set[tuple[int, int]], set[int], int, bool],
) -> None:
    members, lacks, there, seed, hybrid = played
    each = Round(members, lacks, seed=seed, hybrid=hybrid)
    counted = set(sound(each.cohort, there, each.letters, draw=bytes(seed % 7)))
    assume(len(counted) >= each.cohort.threshold)
    expected = {pair for one, other in lacks for pair in ((one, other), (other, one)) if {one, other} <= counted}
    assert apart_in(each.cohort, counted, each.letters) == expected
    releases = {seat: each.release(seat, counted) for seat in counted}
    assert np.array_equal(each.total(counted, releases), each.expected(counted))
    lacking = max(sum(one == seat for one, _ in expected) for seat in counted)
    if len(counted) - lacking > each.cohort.threshold:
        del releases[max(counted)]
        assert np.array_equal(each.total(counted, releases), each.expected(counted))


@given(members=st.integers(3, 64), data=st.data())
def test_no_part_can_be_cut_off_by_fewer_than_could_unmask_it(members: int, data: st.DataObject) -> None:
    """Whichever masks are lacking, as many each as is allowed, and whoever pools shares: the rest hang together."""
    cohort = cohort_with(dict.fromkeys(range(members), 1), hybrid=True)
    counted = set(range(data.draw(st.integers(cohort.threshold, members))))
    allowed = may_lack(cohort, 0, counted)
    hostile = data.draw(st.sets(st.sampled_from(sorted(counted)), max_size=cohort.threshold - 1))
    honest = sorted(counted - hostile)
    part = set(honest[: data.draw(st.integers(0, len(honest)))])
    lacks = dict.fromkeys(honest, 0)
    linked = {seat: {seat} for seat in honest}
    for one, other in combinations(honest, 2):
        if (one in part) != (other in part) and max(lacks[one], lacks[other]) < allowed:
            lacks[one] += 1
            lacks[other] += 1
        else:
            linked[one].add(other)
            linked[other].add(one)
    reached = set(honest[:1])
    for _ in honest:
        reached |= {other for seat in reached for other in linked[seat]}
    assert reached == set(honest)


def test_how_many_masks_may_be_lacking() -> None:
    for members, hybrid, plain in [(3, 0, 1), (4, 0, 1), (5, 0, 1), (6, 1, 2), (10, 1, 3), (64, 10, 21)]:
        for keys, allowed in [(True, hybrid), (False, plain)]:
            cohort = cohort_with(dict.fromkeys(range(members), 1), hybrid=keys)
            assert may_lack(cohort, 0, set(range(members))) == allowed
            assert may_lack(cohort, 0, set(range(cohort.threshold))) == 0
    large = cohort_with(dict.fromkeys(range(65), 1), drawn_from=bytes(32), hybrid=True)
    assert may_lack(large, 0, set(range(65))) == 0


def test_who_lacks_too_many_is_left_out_and_nothing_is_released_for_it() -> None:
    each = Round(6, {(5, 0), (5, 1), (5, 2)}, hybrid=False)
    assert sound(each.cohort, set(range(6)), each.letters) == set(range(5))
    for act in (lambda: each.release(0, set(range(6))), lambda: rebuild(each.cohort, set(range(6)), each.letters, {})):
        with pytest.raises(BadInput, match=r"seat 5 has no mask in common with 3"):
            act()


def test_of_two_that_disagree_a_lot_leaves_one_out_and_only_where_it_must() -> None:
    each = Round(4, {(0, 3), (1, 3)})
    assert sound(each.cohort, set(range(4)), each.letters) == {0, 1, 2}
    each = Round(4, {(0, 3)})
    left = [set(range(4)) - sound(each.cohort, set(range(4)), each.letters, draw=bytes([draw])) for draw in range(30)]
    assert {0} in left
    assert {3} in left
    assert all(len(out) == 1 for out in left)
    each = Round(4, {(0, 3), (1, 2)}, hybrid=False)
    assert sound(each.cohort, set(range(4)), each.letters) == {0, 1, 2, 3}


def test_a_holder_that_could_not_read_somebodys_letters_is_not_blamed() -> None:
    """It cannot know that seats 0 and 4 are apart, and so shows no share of what they do not share."""
    each, counted = Round(7, {(4, 0)}), set(range(7))
    releases = {seat: each.release(seat, counted, unread={4} if seat == 2 else set()) for seat in counted}
    assert releases[2][4:5] == UNREAD
    assert len(releases[2]) != len(releases[3])
    assert np.array_equal(each.total(counted, releases), each.expected(counted))


GROUPS = {"drawn_from": b"1" * 32, "most_groups": 3, "least": 3}


def group_sums(each: Round, releases: dict[int, bytes]) -> dict[int, bool]:
    """By group, whether its sum can be had, which is then the right one. Who is to blame is in `blamed` then."""
    rebuilt = rebuild(each.cohort, set(each.keys), each.letters, releases)
    vectors = {seat: masked.vector for seat, masked in each.masked.items()}
    found = {}
    for group in each.cohort.groups:
        found[group[0]] = not rebuilt.lacking(group)
        if found[group[0]]:
            total = unmask_sum(each.cohort, rebuilt, vectors, coordinates=COORDINATES, group=group[0])
            assert np.array_equal(total, each.expected(set(group)))
    each.blamed = rebuilt.badly_shared.keys() | rebuilt.bad_shares.keys()
    return found


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_group_in_which_too_many_are_apart_is_withheld_alone(hybrid: bool) -> None:
    """A coordinator that counts them all the same has that group's sum not made, and the others' made. With X25519 keys
    one of two is hostile, which hides nothing anyhow.
    """
    counted = set(range(9))
    for pair in combinations(Round(9, set(), hybrid=hybrid, **GROUPS).cohort.groups[1], 2):
        each = Round(9, {pair}, hybrid=hybrid, **GROUPS)
        assert (sound(each.cohort, counted, each.letters) == counted) != hybrid
        releases = {seat: each.release(seat, counted) for seat in counted}
        groups = each.cohort.groups
        assert group_sums(each, releases) == {group[0]: group != groups[1] or not hybrid for group in groups}
        assert not each.blamed


def test_who_is_counted_in_a_group_without_a_sum_keeps_shares_all_the_same() -> None:
    """Two that are apart cost a share each, of nine counted; that six of them are in sums takes nothing from that."""
    groups = Round(10, set(), hybrid=False, **GROUPS).cohort.groups
    small = next(group for group in groups if len(group) == 3)
    pair = next(group for group in groups if group != small)[:2]
    each, counted = Round(10, {pair}, hybrid=False, **GROUPS), set(range(10)) - {small[0]}
    assert sound(each.cohort, counted, each.letters) == counted
    releases = {seat: each.release(seat, counted) for seat in counted}
    rebuilt = rebuild(each.cohort, counted, each.letters, releases)
    assert rebuilt.complete
    assert rebuilt.counted == counted - set(small)
    assert set(rebuilt.pairs) == {pair, pair[::-1]}


@pytest.mark.parametrize("doubting", [1, 4])
def test_whose_letters_cannot_be_read_costs_its_own_group_only(doubting: int) -> None:
    """One holder that withholds a group's shares is not missed; with more than may be hostile, that group is lost, and
    the one whose letters nobody can read is to blame, not who was dealt to it.
    """
    each, counted = Round(9, set(), **GROUPS), set(range(9))
    group = each.cohort.groups[2]
    gone = {group[1]}
    holders = sorted(counted - gone)[:doubting]
    releases = {seat: each.release(seat, counted, unread=gone if seat in holders else set()) for seat in counted}
    flags = releases[holders[0]][:9]
    assert {seat: bytes([flags[seat]]) for seat in group} == dict.fromkeys(group, WITHHELD) | {group[1]: UNREAD}
    assert [flags[seat] for seat in counted - set(group)] == [0] * 6
    lost = doubting > each.cohort.tolerated
    assert group_sums(each, releases) == {other[0]: not (lost and other == group) for other in each.cohort.groups}
    assert each.blamed == (gone if lost else set())


def test_who_withholds_what_it_could_show_is_found() -> None:
    each, counted = Round(9, set(), **GROUPS), set(range(9))
    releases = {seat: each.release(seat, counted) for seat in counted}
    assert all(group_sums(each, releases | {4: WITHHELD * 9}).values())
    assert each.blamed == {4}


def test_whose_letters_cannot_be_read_may_be_apart_from_everybody() -> None:
    """A store that shows a holder only a part must not have it release what isolates somebody; X25519 keys never do."""
    counted = set(range(6))
    with pytest.raises(BadInput, match="no mask in common"):
        Round(6, {(4, 0)}).release(2, counted, unread={5})
    assert Round(6, {(4, 0)}, hybrid=False).release(2, counted, unread={5})
