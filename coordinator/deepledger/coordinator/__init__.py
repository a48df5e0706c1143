"""The coordinator: verifies, settles, pays; serves what it read over HTTP."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepledger.coordinator.run import run as run


def __getattr__(name: str) -> Any:  # so that importing the room does not import torch
    if name == "run":
        from deepledger.coordinator.run import run

        return run
    raise AttributeError(name)
