"""Builds the pages into build/docs: `make docs`. A warning, as of a broken link, is a failure.

The pages lead from the README to docs, examples and back as they stand in the checkout, so they
are laid out in the same way below build/pages first.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "build" / "pages"
FOLDERS = ("docs", "examples", "plugins")
SUFFIXES = (".md", ".py", ".toml")
NOT_PAGES = ("tests", "__pycache__")


def lay_out() -> None:
    shutil.rmtree(PAGES, ignore_errors=True)
    found = [*ROOT.glob("*.md"), *(one for name in FOLDERS for one in (ROOT / name).rglob("*"))]
    for path in found:
        within = path.relative_to(ROOT)
        if path.suffix not in SUFFIXES or not path.is_file() or set(NOT_PAGES) & set(within.parts):
            continue
        there = PAGES / within
        there.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            there.write_text(_with_pages_for_folders(path), encoding="utf-8")
        else:
            shutil.copyfile(path, there)
    for name in ("LICENSE",):
        shutil.copyfile(ROOT / name, PAGES / name)


def _with_pages_for_folders(page: Path) -> str:
    """The page; what leads to a folder leads to the page that stands for it."""

    def lead(found: re.Match[str]) -> str:
        folder = page.parent / found[1]
        return (
            f"]({found[1].rstrip('/')}/README.md)" if (folder / "README.md").exists() else found[0]
        )

    return re.sub(r"\]\(([^)#:]+/)\)", lead, page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    lay_out()
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)
