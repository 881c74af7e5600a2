"""How the documentation is built; see CONTRIBUTING.rst for the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import kq

HERE = Path(__file__).resolve().parent
#: Examples that stand in files, so that a worker can import them, and the Kafka that they run against.
sys.path[:0] = [str(HERE), str(HERE / "examples")]

project = "KQ"
author = "The KQ authors"
project_copyright = "2026, The KQ authors"
release = version = kq.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx_copybutton"]
#: What the copy button leaves out: prompts, and what a command prints.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
copybutton_line_continuation_character = "\\"
exclude_patterns = ["_build"]
default_role = "code"

autodoc_member_order = "bysource"
python_maximum_signature_line_length = 80

#: Every page's code runs against one real Kafka, started by the first of them.
doctest_global_setup = "import kafka_for_examples; hosts = kafka_for_examples.hosts()"

html_theme = "furo"
html_title = f"KQ {release}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["kq.css"]


def setup(app: Any) -> None:
    """Stop the Kafka of the examples when the build is over."""
    import kafka_for_examples  # found only now: see sys.path above

    app.connect("build-finished", lambda *_: kafka_for_examples.stop())
