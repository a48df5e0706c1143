"""What strangers may have a node be asked: no more than a ration, however many they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deepledger.protocol.chain import rationed
from deepledger.protocol.chain.rationed import Ration, Rationed


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rationed, "time", clock)
    return clock


class Node:
    """Notes when it was asked for how much."""

    place, batches = "http://node", True

    def __init__(self, clock: Clock) -> None:
        self.clock, self.asked, self.trips = clock, SimpleNamespace(), 0
        self.times: list[float] = []

    def call(self, method: str, *_params: Any) -> str:
        self.times.append(self.clock.now)
        return method

    each = call

    def batch(self, *requests: Any) -> list[Any]:
        self.times += [self.clock.now] * len(requests)
        return [method for method, _ in requests]


def test_what_is_asked_at_once_is_answered_at_once_and_then_as_often_as_the_ration_says(clock: Clock) -> None:
    node: Any = Node(clock)
    shared = Ration(at_once=10, a_second=2)
    one, other = Rationed(node, shared), Rationed(node, shared)
    assert one.batch(*[("eth_call", [])] * 8) == ["eth_call"] * 8
    assert other.call("eth_blockNumber") == "eth_blockNumber"
    assert other.each("eth_blockNumber") == "eth_blockNumber"
    assert set(node.times) == {100.0}
    for _ in range(6):
        one.call("eth_call")
    assert node.times[10:] == [100.5, 101.0, 101.5, 102.0, 102.5, 103.0]


def test_a_batch_of_more_than_the_ration_is_paid_for_before_it_is_asked(clock: Clock) -> None:
    node: Any = Node(clock)
    Rationed(node, Ration(at_once=10, a_second=2)).batch(*[("eth_call", [])] * 30)
    assert node.times == [110.0] * 30


def test_a_while_of_silence_saves_no_more_than_what_may_be_asked_at_once(clock: Clock) -> None:
    node: Any = Node(clock)
    rpc = Rationed(node, Ration(at_once=4, a_second=2))
    clock.now += 1_000
    for _ in range(6):
        rpc.call("eth_call")
    assert node.times == [1_100.0] * 4 + [1_100.5, 1_101.0]
