"""Configuration of the site: `make docs` builds it offline, executes the tutorials and treats warnings as errors."""

import os
import re
import sys
from pathlib import Path
from typing import Any


HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
# Kernels inherit this: they import this checkout, find the commands beside this Python, and draw no progress bars.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TQDM_DISABLE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    PYTHONPATH=str(HERE.parent),
    PYTHONWARNINGS="ignore:IProgress not found",
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
)

from generate import offer_notebook, write_pages  # noqa: E402
from nbclient import NotebookClient  # noqa: E402

import spectralgpt_hf  # noqa: E402


project = "spectralgpt-hf"
author = "The SpectralGPT-HF authors"
copyright = f"2026, {author}"
release = spectralgpt_hf.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "README.md", "reference/generated/demo.md"]

# Pages are Markdown; tutorials are MyST notebooks, executed when the site is built.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"  # a cache would keep pictures that are older than the code
nb_execution_timeout = 600
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_merge_streams = True
# An output arrives in pieces, and MyST-NB would begin a line with each.
NotebookClient.coalesce_streams = True  # type: ignore[assignment]

# Docstrings write code in single backticks.
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"spectralgpt-hf {release}"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["wrap.css"]


def plain_markdown(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Turn the few Markdown habits of docstrings into reStructuredText: links of transformers, and fenced examples."""
    text = "\n".join(lines)
    text = re.sub(r"\[`~?([\w.]+)`\](\([^)]*\))?", r"`\1`", text)
    text = re.sub(r"\[([\w/-]+)\]\((https?://[^)]+)\)", r"`\1 <\2>`_", text)
    # The generated text of transformers knows no model of ours.
    text = text.replace("of a None", "of a SpectralGPT model").replace("a None\nmodel", "a SpectralGPT\nmodel")
    text = text.replace("a None model", "a SpectralGPT model")
    text = re.sub(
        r"^( *)```python\n(.*?)^ *```",
        lambda m: f"{m[1]}.. code-block:: pycon\n\n" + re.sub(r"^(?=.)", "    ", m[2], flags=re.MULTILINE),
        text,
        flags=re.MULTILINE | re.DOTALL,
    )
    lines[:] = text.split("\n")


def setup(app: Any) -> None:
    write_pages(HERE / "reference" / "generated")
    app.connect("source-read", offer_notebook)
    app.connect("autodoc-process-docstring", plain_markdown)
