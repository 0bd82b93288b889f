"""Hooks of the documentation site: documents outside of docs/ become pages of it."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
ROOT_DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
# Of programs that are copied to other machines.
PROGRAM_DOCUMENTS = ("management/device_client/README.md", "devices/bridge/README.md")
# Files that documents link to, for download.
DOWNLOADS = ("management/device_client/gwanje_device.py",)
_FILES_OF_THE_REPOSITORY = re.compile(r"\[([^\]]+)\]\((?:\.\./)?(?:LICENSE|NOTICE)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the documents outside of docs/, and the downloads, to the files of the site."""
    for name in (*ROOT_DOCUMENTS, *PROGRAM_DOCUMENTS, *DOWNLOADS):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the page's text with its links relative to the site, in which `docs/` and the root are one directory."""
    if page.file.src_uri in PROGRAM_DOCUMENTS:
        return markdown.replace("](../../docs/", "](../../")
    prefix = r"docs/" if page.file.src_uri in ROOT_DOCUMENTS else r"\.\./"
    return _FILES_OF_THE_REPOSITORY.sub(r"\1", re.sub(rf"\]\({prefix}", "](", markdown))
