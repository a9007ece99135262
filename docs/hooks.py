"""MkDocs hooks: add the repository's own Markdown files to the site, and keep the site free of other hosts.

The site also shows files that live outside ``docs/``: the changelog, the contributing and security guides, and each
role's README. Every document links to the others by their paths in the repository, so that the links also work on a
code hosting site. The hooks change these links to the pages of the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]

# The page of the site for each document outside docs/.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-reports.md",
} | {f"roles/{path.parent.name}/README.md": f"roles/{path.parent.name}.md" for path in ROOT.glob("roles/*/README.md")}
SOURCES = {page: source for source, page in PAGES.items()}

_LINK = re.compile(r"(?<!!)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)]*)?\)")
_TAG = re.compile(r"<(?:script|img|iframe|link)\b[^>]*>")
_FOREIGN = re.compile(r"\b(?:src|href)=[\"']?(?:https?:)?//")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents that live outside ``docs/``."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Replace links to files of the repository by links to the pages that show them."""
    at = page.file.src_uri
    source = SOURCES.get(at, f"docs/{at}")

    def rewritten(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        shown = "index.md" if path == "README.md" else PAGES.get(path, path.removeprefix("docs/"))
        return f"]({posixpath.relpath(shown, posixpath.dirname(at) or '.')}{anchor})"

    return _LINK.sub(rewritten, markdown)


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Return the page if it loads nothing from another host.

    Raises:
        PluginError: A script, picture, frame or style sheet of the page is on another host.
    """
    for tag in _TAG.findall(output):
        if _FOREIGN.search(tag):
            raise PluginError(f"{page.file.src_uri} loads {tag} from another host; add the file to docs/ instead")
    return output
