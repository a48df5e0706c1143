"""The documentation as a site: `make docs`. Guides stay where they are, in Markdown that reads well by itself, too."""

from __future__ import annotations

import re
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).resolve().parents[2]

project = "deepledger"
project_copyright = "the authors of deepledger, Apache-2.0"
version = release = version_of("deepledger")
extensions = ["myst_nb", "sphinx.ext.autodoc"]
root_doc = "docs/site/index"
include_patterns = [
    "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/*.md", "docs/*.ipynb", "docs/site/*.md",
    "benchmarks/README.md", "benchmarks/adversaries/README.md",
]  # fmt: skip
exclude_patterns = ["**/node_modules", "**/.venv"]

html_theme = "furo"
html_title = "deepledger"
html_extra_path = ["root"]
html_copy_source = False
html_show_sourcelink = False

myst_heading_anchors = 5
myst_enable_extensions = ["colon_fence"]
nb_execution_mode = "off"  # a test runs the tutorial
nb_merge_streams = True
autodoc_member_order = "bysource"
autodoc_mock_imports = ["torch"]
suppress_warnings = ["misc.highlighting_failure"]  # guides show what a terminal shows


class LinksIntoTheCheckout(SphinxTransform):
    """What is no page is in the checkout only: its name stays, without a link; else it is warned of."""

    default_priority = 5

    def apply(self, **_: Any) -> None:
        here = (ROOT / self.env.doc2path(self.env.docname)).parent
        for link in [*self.document.findall(pending_xref), *self.document.findall(download_reference)]:
            path, _, anchor = str(link["reftarget"]).partition("#")
            if not path or link.get("reftype") != "myst":
                continue
            place = ROOT / f"{path}.md" if link.get("refdomain") == "doc" else (here / path).resolve()
            page = (place / "README.md" if place.is_dir() else place).relative_to(ROOT).with_suffix("").as_posix()
            if page in self.env.found_docs:
                at = {"refdomain": "doc", "reftarget": page, "reftargetid": anchor or link.get("reftargetid")}
                link.replace_self(pending_xref("", *link.children, **(link.attributes | at)))
            elif place.exists():
                link.replace_self(link.children)


def _as_markdown(_: Sphinx, *about: Any) -> None:
    """Docstrings quote code as Markdown does."""
    lines: list[str] = about[-1]
    lines[:] = [re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line).replace("_…", "\\_…") for line in lines]


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", _as_markdown)
    app.add_transform(LinksIntoTheCheckout)
