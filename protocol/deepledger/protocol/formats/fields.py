"""What the fields of specs and reports are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

PublicKeyText = Annotated[str, StringConstraints(pattern=r"^0[23][0-9a-f]{64}$")]
"""Compressed, of secp256k1."""
Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,79}$")]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def refuse(*wrong: str) -> None:
    """For a validator: raises all that is wrong, each as an error of its own."""
    kinds = [PydanticCustomError("value_error", "{said}", {"said": each}) for each in wrong]
    if kinds:
        raise ValidationError.from_exception_data("", [InitErrorDetails(type=kind, input=None) for kind in kinds])


Percent = Annotated[int, Field(ge=0, le=100)]

AddressText = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{40}$")]
