"""How the pages in this folder become a site; `python tools/build_docs.py` builds it."""

import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = HERE / "_build"
sys.path[:0] = [str(ROOT), str(HERE / "_ext")]

# The build asks nobody and leaves nothing in the caches of whoever builds.
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["SKMOECBM_CACHE"] = str(BUILD / "cache")

from saved_pictures import EXAMPLES, SavedPictures  # noqa: E402

import skmoecbm  # noqa: E402

project = "skmoecbm"
author = "The skmoecbm developers"
copyright = "The skmoecbm developers, BSD-3-Clause"
release = version = skmoecbm.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "mathml",
    "public_names",
    "repository_links",
    "tree",
    "whole_pictures",
]
exclude_patterns = ["_build", "**/*.py", "images"]
templates_path = ["_templates"]
nitpicky = True

# -- pages ------------------------------------------------------------------------------------

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

# Which page stands under which; the Markdown itself has no toctree, for readers on a git host.
page_tree = {
    "index": [
        ("Start", "start"),
        ("How it works", "how_it_works"),
        ("Guides", "guides"),
        ("Gallery", "gallery/index"),
        ("Reference", "reference"),
        ("Decisions", "decisions"),
        ("Errata", "errata"),
        ("Contributing", "outside/contributing"),
        ("Changelog", "outside/changelog"),
    ],
    "start": ["installing", "cli"],
    "guides": [
        "concepts",
        "generate",
        "lint",
        "datasets",
        "dicom",
        "experts",
        "mixture",
        "searching",
        "labels",
        "sets",
        "explain",
        "intervene",
        "audit",
        "report",
        "hub",
        "format",
        "scaling",
        "moe",
        "tokens",
    ],
    "decisions": [
        "outside/measured",
        "outside/measured_reproduce",
        "outside/measured_derm7pt",
        "outside/measured_peers",
        "outside/measured_mixtures",
        "outside/measured_speed",
        "outside/measured_profile",
    ],
}
# Files of the repository that are pages of the site, too.
outside_pages = {
    "CONTRIBUTING.md": "outside/contributing",
    "CHANGELOG.md": "outside/changelog",
    "benchmarks/README.md": "outside/measured",
    "benchmarks/results/speed.md": "outside/measured_speed",
    "benchmarks/profile.md": "outside/measured_profile",
    "benchmarks/results/reproduce/README.md": "outside/measured_reproduce",
    "benchmarks/results/derm7pt/README.md": "outside/measured_derm7pt",
    "benchmarks/results/peers/README.md": "outside/measured_peers",
    "benchmarks/results/mixtures/README.md": "outside/measured_mixtures",
}

# -- reference --------------------------------------------------------------------------------

autosummary_generate = True
# `Audit` and `audit` would be one file where file systems ignore case
autosummary_filename_map = {"skmoecbm.audit": "skmoecbm.audit-function"}
autodoc_class_signature = "mixed"
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"  # but for the names of this package, which `public_names` adds
default_role = "public_name"

# -- gallery ----------------------------------------------------------------------------------

# Examples write pictures beside themselves: running copies keeps the folder in git clean.
EXAMPLES.mkdir(parents=True, exist_ok=True)
for _copy in EXAMPLES.glob("*.png"):
    _copy.unlink()  # else the next example to run would show it as its own
for _copy in EXAMPLES.glob("*.py"):
    if not (ROOT / "examples" / _copy.name).exists():
        _copy.unlink()
for _script in [*(ROOT / "examples").glob("*.py"), ROOT / "examples" / "GALLERY_HEADER.rst"]:
    _copy = EXAMPLES / _script.name
    if not _copy.exists() or _copy.read_bytes() != _script.read_bytes():
        shutil.copyfile(_script, _copy)

sphinx_gallery_conf = {
    "examples_dirs": [str(EXAMPLES.relative_to(HERE))],
    "gallery_dirs": ["gallery"],
    # Without the photographs on this machine their example is shown, but not run: it would
    # download them.
    "filename_pattern": r"/plot_" if "SKMOECBM_TEST_DATA" in os.environ else r"/plot_(?!ham10000)",
    "capture_repr": (),  # what an example shows it prints or saves
    "image_scrapers": (SavedPictures(),),
    "reset_modules": ("matplotlib", "saved_pictures.clear"),
    "reset_modules_order": "both",
    "within_subsection_order": "ExampleTitleSortKey",
    "abort_on_example_error": False,
    "only_warn_on_example_error": False,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 0,
    "write_computation_times": False,
    "plot_gallery": not tags.has("no_gallery"),  # noqa: F821  (Sphinx gives `tags`)
}

# -- looks ------------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = "skmoecbm"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_context = {"default_mode": "auto"}
html_show_search_summary = False  # scripts may not read the other pages of a folder on the disk
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_prev_next": True,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
    "article_header_start": ["breadcrumbs"],
}
html_sidebars = {"index": [], "how_it_works": [], "errata": []}
