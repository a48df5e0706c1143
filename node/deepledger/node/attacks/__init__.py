"""The laboratory: what an attacker gets out of an update. One attack a file; none sends or commits to anything.

What an attack does not find is not shown to be safe: others are better, and get better.
"""
