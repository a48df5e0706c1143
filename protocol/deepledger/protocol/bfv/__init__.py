"""Sums under encryption: `program.py` runs deepledger-bfv, which is built from `program/` and does the mathematics."""
