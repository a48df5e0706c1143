"""The contract as Python sees it: its ABI and its code, from the build that is committed beside this file."""

from deepledger.contracts.artifact import Artifact, load

__all__ = ["Artifact", "load"]
