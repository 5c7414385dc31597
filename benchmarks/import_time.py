"""How long `import picolab` takes, and the first call of what it offers: medians over fresh interpreters.

    python benchmarks/import_time.py [--runs 20]

The target is 50 ms for the import. What is imported later is paid for by those who use it.
"""

import argparse
import statistics
import subprocess
import sys

TARGET_MS = 50
STATEMENTS = ("import picolab", "import picolab; picolab.open_trial", "import picolab; picolab.load")
TIMED = "import time; begun = time.perf_counter(); {}; print(1000 * (time.perf_counter() - begun))"


def median_ms(statement: str, runs: int) -> float:
    """Return the median of the milliseconds that a statement takes in a new interpreter."""
    program = [sys.executable, "-c", TIMED.format(statement)]
    subprocess.run(program, check=True, capture_output=True)  # caches of the disk, byte code
    return statistics.median(
        float(subprocess.run(program, check=True, capture_output=True).stdout) for _ in range(runs)
    )


def main() -> int:
    """Print a line per statement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    found = {statement: median_ms(statement, runs) for statement in STATEMENTS}
    for statement, milliseconds in found.items():
        print(f"{milliseconds:9.2f} ms  {statement}")
    return int(found[STATEMENTS[0]] > TARGET_MS)


if __name__ == "__main__":
    sys.exit(main())
