"""The pages in docs/: what their examples use is said on the page, and README lists them all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.conf import settings

PAGES = sorted((Path(settings.BASE_DIR) / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_of_an_example_is_explained_on_its_page(page: Path) -> None:
    text = page.read_text()
    used = set(re.findall(r"\$([A-Z][A-Z_]*)", text))
    explained = set(re.findall(r"`([A-Z][A-Z_]*)(?:=[^`]*)?`", text))
    assert used <= explained


def test_readme_lists_every_page() -> None:
    readme = (Path(settings.BASE_DIR) / "README.md").read_text()
    assert [page.name for page in PAGES if f"(docs/{page.name})" not in readme] == []
