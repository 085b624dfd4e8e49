"""Configuration of the documentation site: `make docs`, in which warnings are errors."""

from importlib.metadata import version as installed

project = "daskxent"
author = "The daskxent developers"
version = release = installed("daskxent")
extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = "daskxent"
nb_execution_mode = "off"  # the notebooks keep the output that a test compares with
nb_merge_streams = True
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's docstrings say them
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
exclude_patterns = ["_build", "report.png"]
# Pages link to files of the repository, which are not pages of the site.
suppress_warnings = ["myst.xref_missing", "myst.header", "mystnb.unknown_mime_type"]
copyright = "The daskxent developers"
