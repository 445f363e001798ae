"""python -m benchmarks gpu|cpu|quick [--dry] [--out FOLDER]    a suite; its result files go to FOLDER
python -m benchmarks report [--check] [--readme FILE]           the README's table, from the result files"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.command import no_traceback
from benchmarks.gpu_suite import SUITES, run
from benchmarks.provenance import RESULTS


def main(arguments: list[str] | None = None) -> None:
    """The command; exit code 1 when a part failed or was cut, or the README's table is stale."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*SUITES, "report"])
    parser.add_argument("--dry", action="store_true", help="tiny and short: shows that the suite works")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results; of a dry run: benchmarks/results/dry")
    parser.add_argument("--check", action="store_true", help="report: fail when the README's table is stale")
    parser.add_argument("--readme", type=Path, default=report.README)
    options = parser.parse_args(arguments)
    console = Console()
    out = options.out or (RESULTS / "dry" if options.dry else RESULTS)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that parts and their arms are stopped, too
    with no_traceback(console):
        if options.what == "report":
            report.main(options.readme, out, options.check)
            return
        done = run(options.what, out, options.dry, console)
    if any(part.outcome != "ok" for part in done):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
