"""What mkdocs needs of us: pages that lie outside docs/, and links to what is no page.

README.md is the site's front page; CONTRIBUTING.md and CHANGELOG.md are pages of it. A link to source or to a folder
keeps its words and loses its target: the site holds pages alone. mkdocs.yml names this file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
PAGE_OF = {
    **{source: page for page, source in OUTSIDE.items()},
    **{f"../{source}": page for page, source in OUTSIDE.items()},
    "recipes": "recipes.md",
    "../recipes": "recipes.md",
}
LINK = re.compile(r"(?<!!)\[(?P<words>[^\]]+)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
NO_PAGE = re.compile(r"(\.\./)*(src|deploy|native|tests|benchmarks)(/|$)")
BLOCK = re.compile(r"(?ms)(^```.*?^```$)")


def on_files(files: Any, config: Any) -> Any:
    """The pages from outside, as if they lay in docs/."""
    for page, source in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=linked(text, from_root=True)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """A page of docs/ with its links to what lies outside."""
    return markdown if page.file.src_uri in OUTSIDE else linked(markdown)


def linked(text: str, *, from_root: bool = False) -> str:
    """Text whose links lead to pages of the site; what is in a block of code stays as it is."""

    def to_page(found: re.Match[str]) -> str:
        target = found["target"]
        if "://" in target or target.startswith("mailto:"):
            return found[0]
        if NO_PAGE.match(target):
            return found["words"]
        plain = target.rstrip("/")
        page = PAGE_OF.get(plain, plain.removeprefix("docs/") if from_root else plain)
        return f"[{found['words']}]({page}{found['anchor'] or ''})"

    return "".join(part if index % 2 else LINK.sub(to_page, part) for index, part in enumerate(BLOCK.split(text)))
