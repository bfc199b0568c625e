"""One HTML file that needs nothing else: no script, no request, its style inside; light or dark as the reader's screen.

Kubeflow shows such a file in a frame of its own (``sandbox="allow-scripts"``, the text as ``srcdoc``), where nothing
beside it could be loaded. The content security policy forbids whatever in it could still try to run or to load.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from components.shared.files import writing
from components.shared.html.markup import escaped

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def html_document(title: str, body: str, style: str = "") -> str:
    """A whole page.

    Args:
        title: What a browser's tab says, unescaped.
        body: HTML.
        style: CSS of this page alone, after what all pages share.
    """
    shared = (files("components.shared.html") / "style.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escaped(title)}</title>
<style>
{shared}{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def write_page(file: Path, page: str) -> None:
    """Write a page.

    What UTF-8 cannot hold is half a character from a manifest's JSON: it is written as a reference, as it must not end
    a step.
    """
    with writing(file) as output:
        output.write(page.encode("utf-8", "xmlcharrefreplace"))
