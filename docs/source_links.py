"""A hook of MkDocs: links to files outside docs/ work on the site too.

A page links to a file of the repository by its relative path, as it must where the repository itself is browsed. The
site has a copy of each file that is linked so: sources as pages with line numbers, Markdown as pages like any other,
everything else as it is. So no address of a host stands anywhere, and the site works without a network.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = "docs/"
COPIES = "source/"
"""Where on the site the copies are."""

LANGUAGES = {
    ".c": "c",
    ".cpp": "cpp",
    ".h": "cpp",
    ".in": "text",
    ".inc": "cpp",
    ".ini": "ini",
    ".py": "python",
    ".sh": "bash",
    ".tsv": "text",
    ".toml": "toml",
    "": "text",
}
"""By suffix, what is shown as a page of code."""

LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a copy of everything that a page, or a copied page, links to."""
    waiting = [f"{DOCS}{file.src_uri}" for file in files.documentation_pages()]
    known = set(waiting)
    while waiting:
        page = waiting.pop()
        for target in _targets(page, (ROOT / page).read_text(encoding="utf-8")):
            if target in known or _is_page(target):
                continue
            known.add(target)
            files.append(_copy(target, config))
            if target.endswith(".md"):
                waiting.append(target)
            elif (ROOT / target).is_dir():
                inside = [f"{target}/{path.name}" for path in _files_in(ROOT / target)]
                for each in [each for each in inside if each not in known]:
                    known.add(each)
                    files.append(_copy(each, config))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links from where a page is in the repository to where their targets are on the site."""
    here = page.file.src_uri
    origin = here.removeprefix(COPIES) if here.startswith(COPIES) else f"{DOCS}{here}"
    if not origin.endswith(".md") or not (ROOT / origin).exists():
        origin = origin.removesuffix(".md")  # a page that shows a source or a directory

    def moved(match: re.Match[str]) -> str:
        target = _target(origin, match[2])
        if target is None:
            return match[0]
        on_site = target.removeprefix(DOCS) if _is_page(target) else _place(target)
        return f"{match[1]}{os.path.relpath(on_site, os.path.dirname(here) or '.')}{match[3]}"

    return LINK.sub(moved, markdown)


def _targets(page: str, text: str) -> list[str]:
    found = (_target(page, match[2]) for match in LINK.finditer(text))
    return list(dict.fromkeys(target for target in found if target is not None))


def _target(page: str, link: str) -> str | None:
    """What a relative link on a page means, from the repository's root; None for addresses and what isn't there."""
    if re.match(r"[a-z]+:|/", link):
        return None
    path = os.path.normpath(os.path.join(os.path.dirname(page), link))
    return path if not path.startswith("..") and (ROOT / path).exists() else None


def _is_page(target: str) -> bool:
    """Whether MkDocs itself brings a file to the site: all of docs/ but what is excluded."""
    return target.startswith(DOCS) and not target.endswith(".py")


def _place(target: str) -> str:
    """Where on the site the copy of a file is."""
    path = ROOT / target
    is_page = path.is_dir() or path.suffix in LANGUAGES
    return f"{COPIES}{target}.md" if is_page else f"{COPIES}{target}"


def _copy(target: str, config: MkDocsConfig) -> File:
    path, place = ROOT / target, _place(target)
    if path.is_dir():
        rows = "".join(f"- [{each.name}]({path.name}/{each.name})\n" for each in _files_in(path))
        file = File.generated(config, place, content=f"# {target}\n\n{rows}")
    elif path.suffix in LANGUAGES:
        text = path.read_text(encoding="utf-8")
        code = f'~~~~ {{ .{LANGUAGES[path.suffix]} linenums="1" }}\n{text}\n~~~~\n'
        file = File.generated(
            config, place, content=f"---\nsearch:\n  exclude: true\n---\n# {target}\n\n{code}"
        )
    else:
        file = File.generated(config, place, abs_src_path=str(path))
    file.inclusion = InclusionLevel.NOT_IN_NAV
    return file


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())
