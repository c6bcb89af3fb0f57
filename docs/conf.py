"""Configuration of the documentation site, which Sphinx builds from the Markdown pages of this folder.

sphinx-build --fail-on-warning --keep-going docs site
"""

from importlib.metadata import version as installed_version

project = "nextvec"
author = "The nextvec authors"
copyright = "2026, The nextvec authors"
version = release = installed_version("nextvec")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_title = f"nextvec {release}"
html_copy_source = False
html_theme_options = {
    "source_repository": "https://github.com/nextvec/nextvec",
    "source_branch": "main",
    "source_directory": "docs/",
}

# Links may name any heading down to the third level. A link to a heading that does not exist is a warning, and the
# build treats warnings as errors.
myst_heading_anchors = 3

# The quickstart notebook runs in every build, in a temporary folder. A cell that raises fails the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

smartquotes = False  # they would turn the -- of options into a dash

# Docstrings use single backticks for code.
default_role = "code"
napoleon_google_docstring = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
