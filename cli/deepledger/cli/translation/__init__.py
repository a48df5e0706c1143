"""Somebody's own code, read and not run, as a task: what could be found in it, and what could not be translated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from deepledger.cli.translation.flower import translate_app
from deepledger.cli.translation.scripts import translate_lightning, translate_script, translate_trainer
from deepledger.cli.translation.source import Translation

Kind = Literal["flower", "trainer", "lightning", "script"]
TRANSLATE: Mapping[str, Callable[[Path], Translation]] = {
    "flower": translate_app,
    "trainer": translate_trainer,
    "lightning": translate_lightning,
    "script": translate_script,
}
