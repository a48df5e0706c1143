"""Canonical JSON, RFC 8785: one value, one byte string; and what is wrong with a stranger's, in plain words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import rfc8785
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from deepledger.protocol.errors import BadSpec

MAX_NESTING = 32

_MOST_REPEATED = 60
_MOST_SAID = 500
"""Letters or bits of a wrong value that a message repeats."""

_PLAIN = {
    "missing": "is missing",
    "extra_forbidden": "there is no such key",
    "int_type": "{input} is not a whole number",
    "int_parsing": "{input} is not a whole number",
    "int_from_float": "{input} is not a whole number",
    "float_type": "{input} is not a number",
    "float_parsing": "{input} is not a number",
    "finite_number": "{input} is not a finite number",
    "bool_type": "{input} is neither true nor false",
    "string_type": "{input} is not a text",
    "string_too_short": "{input} has fewer than {min_length} letters",
    "string_too_long": "{input}… has more than {max_length} letters",
    "string_pattern_mismatch": "{input} does not match {pattern}",
    "model_type": "{input} is not a table of keys",
    "model_attributes_type": "{input} is not a table of keys",
    "dict_type": "{input} is not a table of keys",
    "tuple_type": "{input} is not a list",
    "greater_than_equal": "{input} is less than {ge}",
    "greater_than": "{input} is not more than {gt}",
    "less_than_equal": "{input} is more than {le}",
    "less_than": "{input} is not less than {lt}",
    "literal_error": "{input} is not {expected}",
    "union_tag_invalid": "{tag!r} is none of {expected_tags}",
    "union_tag_not_found": "{discriminator} is missing",
}
"""What pydantic's kinds of errors are in the words of somebody who writes a file."""


def describe(error: ValidationError) -> str:
    return "; ".join(
        ": ".join(filter(None, (shown(".".join(map(str, item["loc"]))), shown(_plain(item), most=_MOST_SAID))))
        for item in error.errors(include_url=False)[:8]
    )


def _plain(item: ErrorDetails) -> str:
    text = _PLAIN.get(item["type"])
    if text is None:
        return item["msg"].removeprefix("Value error, ")
    return text.format(input=_repeated(item["input"]), **item.get("ctx", {}))


def _repeated(value: object) -> str:
    match value:
        case dict():
            return "a table"
        case list() | tuple():
            return "a list"
        case int() if value.bit_length() > _MOST_REPEATED:  # Python does not print every integer
            return "a number this large" if value > 0 else "a number this small"
        case _:
            return repr(value)[:_MOST_REPEATED]


def shown(text: str, *, most: int = 200) -> str:
    """Text that a stranger may have written, for one line of a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:most])


def canonical_json(value: Any) -> bytes:
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise BadSpec(f"cannot be written as canonical JSON: {error}") from None


def parse_json(data: bytes) -> Any:
    """JSON from a stranger: no NaN, no duplicate keys, no endless nesting. Raises `BadSpec`."""

    def no_duplicates(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def no_constant(name: str) -> None:
        raise ValueError(f"{name} is not a number")

    try:
        text = data.decode()
        if _nesting(text) > MAX_NESTING:  # json recurses in C: what raised the recursion limit lets it crash Python
            raise ValueError(f"nested more than {MAX_NESTING} levels deep")
        return json.loads(text, object_pairs_hook=no_duplicates, parse_constant=no_constant)
    except ValueError as error:
        raise BadSpec(f"not valid JSON: {error}") from None


def _nesting(text: str) -> int:
    without_strings = re.sub(r'"(?:[^"\\]++|\\.)*+"', "", text)
    steps = (1 if bracket in "[{" else -1 for bracket in re.findall(r"[\[\]{}]", without_strings))
    return max(accumulate(steps), default=0)
