"""Train one PyTorch model with people you do not trust; anyone can re-derive the run bit for bit.

    Job          open one by its number, or create one: status, rounds, participants, trail, model
    join         take part in one
    coordinate   settle one
    audit        derive one again, and compare
    simulate     play a job file without a chain
    jobs         what a contract has
    sandbox      a chain, a store and accounts, to try all that
    Network      where jobs are; Account: who signs

What is expected to go wrong raises a `DeepledgerError`; `deepledger.protocol.errors` draws the tree of them. Nothing is
imported before it is used; torch, not before something is trained or evaluated.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

__path__ = extend_path(__path__, __name__)  # in a checkout, each room has a folder of its own

if TYPE_CHECKING:
    from deepledger.api.account import Account as Account
    from deepledger.api.auditing import audit as audit
    from deepledger.api.job import Job as Job
    from deepledger.api.network import Network as Network
    from deepledger.api.network import jobs as jobs
    from deepledger.api.roles import coordinate as coordinate
    from deepledger.api.roles import join as join
    from deepledger.api.sandbox import sandbox as sandbox
    from deepledger.api.simulated import simulate as simulate
    from deepledger.protocol.errors import BadInput as BadInput
    from deepledger.protocol.errors import BlobError as BlobError
    from deepledger.protocol.errors import ChainError as ChainError
    from deepledger.protocol.errors import DeepledgerError as DeepledgerError

    __version__: str

_FROM = {
    "Account": "api.account", "audit": "api.auditing", "Job": "api.job", "Network": "api.network",
    "jobs": "api.network", "coordinate": "api.roles", "join": "api.roles", "sandbox": "api.sandbox",
    "simulate": "api.simulated", "BadInput": "protocol.errors", "BlobError": "protocol.errors",
    "ChainError": "protocol.errors", "DeepledgerError": "protocol.errors",
}  # fmt: skip

__all__ = [*_FROM, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("deepledger")
    if name not in _FROM:
        raise AttributeError(f"module 'deepledger' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"deepledger.{_FROM[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
