"""A wheel, or a source distribution, carries the dashboard's page where `make dashboard` has built it."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class DashboardPage(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        page = Path(self.root, "dashboard/dist")
        if version != "editable" and page.is_dir():
            place = "deepledger/dashboard" if self.target_name == "wheel" else "dashboard/dist"
            build_data["force_include"][str(page)] = place
