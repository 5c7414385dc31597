"""Salvage: a notebook for a trial whose own one was lost after its record had been written."""

import json
from pathlib import Path
from typing import Any

from picolab.files.writing import write_atomically
from picolab.jupyter.notebook_process import NOTEBOOK_FILE
from picolab.record.record import RECORD_SCRAP, SAMPLES_SCRAP, Record
from picolab.record.samples import LARGEST_BYTES
from picolab.results.trial_files import samples_of
from picolab.trial.state import SAMPLES_FILE

LOST_NOTEBOOK_FILE = "trial.lost.ipynb"
_SCRAP_MIME = "application/scrapbook.scrap.json+json"
_NOTE = (
    "# Salvaged trial\n\nThe kernel or papermill was killed after this trial had been measured and before its "
    "notebook was complete. The record and the samples below come from the files that the trial wrote itself."
)


def salvage_notebook(folder: Path, record: Record) -> None:
    """Write a notebook that holds the scraps of a trial, from its side files.

    Args:
        folder: of the trial; an existing notebook is kept under another name.
    """
    scraps: dict[str, Any] = {RECORD_SCRAP: json.loads(record.model_dump_json())}
    samples = samples_of(folder / SAMPLES_FILE, record, LARGEST_BYTES)
    if samples is not None:
        scraps[SAMPLES_SCRAP] = samples
    outputs = [
        {
            "output_type": "display_data",
            "metadata": {"scrapbook": {"name": name, "data": True, "display": False}},
            "data": {_SCRAP_MIME: {"name": name, "data": data, "encoder": "json", "version": 1}},
        }
        for name, data in scraps.items()
    ]
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"language_info": {"name": "python"}},
        "cells": [
            {"cell_type": "markdown", "id": "salvaged-note", "metadata": {}, "source": _NOTE},
            {
                "cell_type": "code",
                "id": "salvaged-scraps",
                "metadata": {},
                "execution_count": None,
                "source": "# the scraps of this trial are the outputs of this cell",
                "outputs": outputs,
            },
        ],
    }
    target = folder / NOTEBOOK_FILE
    if target.exists():
        target.replace(folder / LOST_NOTEBOOK_FILE)
    write_atomically(target, json.dumps(notebook, indent=1))
