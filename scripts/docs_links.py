"""Hook of mkdocs.yml: links to files outside docs/, such as ../README.md, become plain text, for the site does not have them."""

import posixpath
import re
from typing import Any


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Returns a page's text without the links that lead out of docs/."""
    folder = posixpath.dirname(page.file.src_uri)

    def replace(match: re.Match[str]) -> str:
        text, target = match.groups()
        return text if posixpath.normpath(posixpath.join(folder, target)).startswith("..") else match[0]

    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!\w+:)([^)#]+)[^)]*\)", replace, markdown)
