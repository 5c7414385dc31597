"""The program of the second process that reads a campaign: some trials in, everything that was found of them out.

    python -m picolab.results.part_reader FOLDER

It reads a list of trial ids from standard input, as JSON, and writes `picolab.results.second_process.TrialRead` by
trial id to standard output, pickled for the process that started it.
"""

import json
import pickle
import sys
from pathlib import Path

from picolab.results.standing import read_trials


def main() -> None:
    """Read the trials that standard input names."""
    found = read_trials(Path(sys.argv[1]), json.loads(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(pickle.dumps(found, protocol=pickle.HIGHEST_PROTOCOL))


if __name__ == "__main__":
    main()
