"""What is said of a release agrees: the version, its changes and how to cite it."""
from __future__ import annotations

import re
from pathlib import Path

import yaml

import bdsa

ROOT = Path(__file__).parents[2]


def test_the_changelog_has_the_version_below_what_is_unreleased() -> None:
    heads = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[:2] == ["Unreleased", bdsa.__version__]


def test_the_citation_is_of_this_version_and_licence_and_names_the_paper() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(cited["version"]) == bdsa.__version__
    assert (ROOT / "LICENSE").read_text().startswith(f"{cited['license']} License")
    (paper,) = cited["references"]
    assert paper["title"] in (ROOT / "README.md").read_text()
