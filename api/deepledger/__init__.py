"""Train one PyTorch model with people you do not trust; anyone can re-derive the run bit for bit."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # in a checkout, each room has its own folder
