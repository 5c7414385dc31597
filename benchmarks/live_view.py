"""Measure the cost of the live view of an upload: throughput with it and without it, in pairs, in a real kernel.

    live_view.py                        10 pairs of 256 MiB to the calibration server at full speed
    live_view.py --pairs 20 --size 1G

One server gets all uploads, and each is deleted before the next. The order inside a pair alternates.
What a browser does with the updates is not included.
"""

import argparse
import json
import os
import tempfile
from typing import Any

import nbclient
import nbformat

from picolab.analysis.statistics import paired_ratio

MEASURE = """
import json
from picolab.config.trial_parameters import TrialParameters
from picolab.jupyter import live_line
from picolab.trial import upload
from picolab.trial.trial import Trial

watched = live_line.is_watched
trial = Trial.open(TrialParameters(file_size="{size}", ram_mb=1024, keep_machine="never"))
for stage in (trial.provision, trial.start, trial.authenticate):
    stage()

def throughput(shown):
    live_line.is_watched = watched if shown else lambda: False
    upload.upload(trial._run)
    found = trial.state.upload
    assert found.outcome == "ok" and found.live_view is shown
    return found.throughput_mib_s

throughput(False)
pairs = []
for number in range({pairs}):
    found = dict((shown, throughput(shown)) for shown in ((True, False) if number % 2 else (False, True)))
    pairs.append([found[False], found[True]])
trial.release()
print("PAIRS", json.dumps(pairs))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--size", default="256M")
    options = parser.parse_args()
    source = MEASURE.replace("{size}", options.size).replace("{pairs}", str(options.pairs))
    notebook: Any = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.environ |= {"PICOLAB_OUTPUTS_DIR": f"{folder}/outputs", "PICOLAB_STATE_DIR": f"{folder}/state"}
        nbclient.NotebookClient(notebook, timeout=3600, kernel_name="python3").execute()
    streams = [output.text for output in notebook.cells[0].outputs if output.output_type == "stream"]
    (line,) = [line for text in streams for line in text.splitlines() if line.startswith("PAIRS")]
    pairs = json.loads(line.removeprefix("PAIRS"))
    for without, shown in pairs:
        print(f"without {without:8.1f} MiB/s   with {shown:8.1f} MiB/s   {shown / without - 1:+.1%}")
    found = paired_ratio([without for without, _ in pairs], [shown for _, shown in pairs])
    assert found is not None
    print(
        f"with over without: {found.ratio:.4f} [{found.low:.4f}, {found.high:.4f}] at {found.coverage:.1%} "
        f"from {found.n} pairs, smallest change that these find {found.minimum_detectable}"
    )


if __name__ == "__main__":
    main()
