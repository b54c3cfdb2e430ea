"""Configuration of the site, which `sphinx-build -W docs docs/_build` builds from the pages of this folder."""

import re

from hf_wgan import __version__

project = "hf_wgan"
copyright = "the authors of hf_wgan"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"hf_wgan {version}"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # they are in the signatures
autodoc_inherit_docstrings = False
suppress_warnings = ["misc.highlighting_failure"]
default_role = "code"  # docstrings are Markdown, where one backtick means code


def setup(app):
    app.connect("autodoc-process-docstring", to_restructured_text, priority=400)  # before napoleon
    app.connect("source-read", link_cards)


def link_cards(app, name, source):
    """Turn links to model cards, which are not pages of the site, into downloads."""
    source[0] = re.sub(r"\[([^]]+)]\((\.\./model_cards/[^)]+\.md)\)", r"{download}`\1 <\2>`", source[0])


def to_restructured_text(app, what, name, obj, options, lines):
    """Convert the fenced code and the tables of a docstring from Markdown to reStructuredText."""
    out, fenced = [], False
    for line in lines:
        text = line.lstrip()
        indent = line[: len(line) - len(text)]
        if text.startswith("```"):
            fenced = not fenced
            out += ["", f"{indent}.. code-block:: python", ""] if fenced else [""]
        elif text.startswith("|"):
            out += [] if out[-1].lstrip().startswith("|") else ["", f"{indent}.. code-block:: text", ""]
            out.append(f"{indent}   {text}")
        else:
            if out and out[-1].lstrip().startswith("|"):
                out.append("")
            out.append(f"   {line}" if fenced else line)
    lines[:] = out
