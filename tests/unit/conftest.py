"""A spec to vary, for tests of the pure core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from deepledger.protocol.spec import JobSpec, build_spec


@pytest.fixture(scope="session")
def spec_fields() -> Callable[..., dict[str, Any]]:
    """The fields of a valid spec; keyword arguments replace whole fields."""

    def fields(*, coordinates: int = 10, **changes: Any) -> dict[str, Any]:
        return {
            "name": "digits",
            "task": {"name": "digits", "sha256": "ab" * 32},
            "model": {"fraction_bits": 20, "layout": [{"name": "w", "shape": [coordinates], "offset": 0}]},
            "update": {"bits": 16, "fraction_bits": 16, "norm_bound": 5.0},
            "training": {"seed": 1, "hyperparameters": {"epochs": 1, "rate": 0.5, "nesterov": True, "name": "sgd"}},
            "aggregation": {"rule": "weighted_mean"},
            "rewards": {"policy": "samples"},
            "validation": {"digest": "cd" * 32, "bytes": 100},
            "max_samples": 1000,
        } | changes

    return fields


@pytest.fixture(scope="session")
def spec_of(spec_fields: Callable[..., dict[str, Any]]) -> Callable[..., JobSpec]:
    return lambda **changes: build_spec(spec_fields(**changes))
