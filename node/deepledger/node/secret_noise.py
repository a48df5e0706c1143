"""Noise and lots that nobody can guess: AES-256 in counter mode under a key that is drawn from the system.

Everybody can compute the seed that a node trains with, and a generator of torch on the CPU begins in one of 2^32
states: noise from it could be found by trying, and taken away.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR


class SecretNoise:
    def __init__(self) -> None:
        self._stream = Cipher(AES(os.urandom(32)), CTR(bytes(16))).encryptor()

    def uniform(self, count: int) -> npt.NDArray[np.float64]:
        """Shape (count,): multiples of 2^-53 from 0 to below 1."""
        words = np.frombuffer(self._stream.update(bytes(8 * count)), "<u8")
        uniform: npt.NDArray[np.float64] = np.multiply(words >> np.uint64(11), 2.0**-53, dtype=np.float64)
        return uniform

    def normal(self, count: int) -> torch.Tensor:
        """Shape (count,), float64: standard normal, up to 8.5 (Box and Muller 1958)."""
        half = (count + 1) // 2
        drawn = torch.from_numpy(self.uniform(2 * half))
        radius = (1 - drawn[:half]).log_().mul_(-2).sqrt_()
        angle = drawn[half:].mul_(2 * torch.pi)
        return torch.cat((radius * angle.cos(), radius * angle.sin()))[:count]
