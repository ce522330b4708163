"""Pages of the site that lie outside docs/, beside the files that they describe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "weights/README.md": "weights.md",
    "benchmarks/README.md": "benchmarks.md",
    "examples/README.md": "examples.md",
    "CHANGELOG.md": "changelog.md",
}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to those of docs/."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_relinked(text, Path(source).parent)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point the links of a page of docs/ at the pages of the site."""
    return markdown if page.file.src_uri in PAGES.values() else _relinked(markdown, Path("docs"))


def _relinked(text: str, folder: Path) -> str:
    """Markdown whose links to files of the project lead to pages, or are plain text where the site has no page."""

    def link(match: re.Match[str]) -> str:
        shown, target, anchor = match[1], match[2], match[3] or ""
        path = (ROOT / folder / target).resolve().relative_to(ROOT).as_posix()
        if path in PAGES:
            return f"[{shown}]({PAGES[path]}{anchor})"
        if path.startswith("docs/"):
            return f"[{shown}]({path.removeprefix('docs/')}{anchor})"
        return shown

    return re.sub(r"\[([^]]*)\]\(([^):#\s]+)(#[^)\s]*)?\)", link, text)
