"""Sums integer vectors under packed Paillier (phe, with gmpy2) and prints, as JSON, what that takes.

Many coordinates lie in one plaintext, each in a slot as wide as the sum of all parties. One key decrypts alone: in the
threshold version, which DeepChain has, that takes longer, and every decrypting party.
"""

import argparse
import json
import random
import sys
import time

import gmpy2  # noqa: F401 (phe computes with it where it is there; without, it takes many times as long)
from phe import EncryptedNumber, generate_paillier_keypair

HALF = 1 << 15  # added to an int16, so that slots hold nothing negative


def seconds(work):
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def pack(values, *, slots, bits):
    """Plaintexts of so many values each, the first one lowest."""
    packed = []
    for start in range(0, len(values), slots):
        words = 0
        for value in reversed(values[start : start + slots]):
            words = words << bits | value + HALF
        packed.append(words)
    return packed


def unpack(plaintexts, count, *, slots, bits, parties):
    values = []
    for words in plaintexts:
        for _ in range(min(slots, count - len(values))):
            values.append((words & (1 << bits) - 1) - parties * HALF)
            words >>= bits
    return values


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coordinates", type=int, default=252_398)
    parser.add_argument("--parties", type=int, default=4)
    parser.add_argument("--key", type=int, default=2048, help="bits of the modulus; 2,048 are 112 bits of security")
    given = parser.parse_args()
    bits = 16 + (given.parties - 1).bit_length()
    slots = (given.key - 3) // bits  # phe keeps a third of the numbers for negative ones and for overflows
    public, private = generate_paillier_keypair(n_length=given.key)
    draw = random.Random(1)
    vectors = [[draw.randrange(-HALF, HALF) for _ in range(given.coordinates)] for _ in range(given.parties)]

    def encrypt(vector):
        return [public.encrypt(words) for words in pack(vector, slots=slots, bits=bits)]

    sent, encrypting = seconds(lambda: [encrypt(vector) for vector in vectors])
    total, summing = seconds(lambda: [sum(column[1:], column[0]) for column in zip(*sent, strict=True)])
    assert isinstance(total[0], EncryptedNumber)
    found, decrypting = seconds(
        lambda: unpack(map(private.decrypt, total), given.coordinates, slots=slots, bits=bits, parties=given.parties)
    )
    if found != [sum(column) for column in zip(*vectors, strict=True)]:
        sys.exit("the decrypted sum is not that of the vectors")
    print(json.dumps({
        "coordinates": given.coordinates, "parties": given.parties, "ciphertexts": len(total), "slots": slots,
        "encrypt": encrypting / given.parties, "sum": summing, "decrypt": decrypting,
        "ciphertext_bytes": len(total) * given.key // 4,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
