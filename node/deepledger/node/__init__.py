"""A participant: data, training, one round from its side."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepledger.node.participate import participate as participate


def __getattr__(name: str) -> Any:  # so that importing the room does not import torch
    if name == "participate":
        from deepledger.node.participate import participate

        return participate
    raise AttributeError(name)
