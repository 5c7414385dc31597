"""A notebook of a page that kills its own kernel, as the kernel of a host without memory would."""

from pathlib import Path

import nbformat


def deadly_notebook(folder: Path, when: str = "True") -> Path:
    """Write the notebook of a page, and return it.

    Args:
        when: Python expression about `campaign`, the folder; the kernel dies where it is true.
    """
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [
        nbformat.v4.new_code_cell('campaign = ""', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(f"import os, signal\nif {when}:\n    os.kill(os.getpid(), signal.SIGKILL)"),
    ]
    path = folder / "analysis.ipynb"
    nbformat.write(nbformat.v4.new_notebook(metadata={"kernelspec": kernel}, cells=cells), path)
    return path
