"""Run the benchmarks one after the other and sum them up in RESULTS.md.

    python benchmarks/run.py [--quick] [--only NAME ...] [--out FOLDER]

The rows of each go to ``results/NAME.jsonl``, plots beside them, and RESULTS.md is made from these
files: a run of some benchmarks keeps the results of the others. One that fails loses its earlier
results, the rest goes on, and the exit status is 1. Quick runs are kept apart, in ``runs/``, so
that they do not replace real results.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from result_files import RESULTS, read_result, result_path, write_result
from results_page import results_page
from run_facts import machine_facts
from run_script import ScriptFailed, run_script
from suite import HERE, SCRIPTS, Script

from sdrpn_core.util.atomic_files import atomic_write

PAGE = "RESULTS.md"
QUICK_FOLDER = HERE.parent / "runs" / "benchmarks"


def run_all(
    scripts: Sequence[Script], chosen: Sequence[Script], folder: Path, *, quick: bool
) -> list[str]:
    """Run the chosen ones; returns the names of those that failed.

    Args:
        scripts: all, for the page.
        chosen: of these, which to run.
        folder: gets the page and the results.
        quick: with quick sizes.
    """
    (folder / RESULTS).mkdir(parents=True, exist_ok=True)
    machine = machine_facts()
    failed = []
    for number, script in enumerate(chosen, start=1):
        print(f"[{number}/{len(chosen)}] {script.name} ...", end=" ", flush=True)
        clock = time.perf_counter()
        try:
            result = run_script(script, quick=quick, machine=machine, plots=folder / RESULTS)
        except ScriptFailed as error:
            failed.append(script.name)
            _forget(script, folder)
            print(f"failed after {time.perf_counter() - clock:.0f} s", flush=True)
            print(f"{script.name}: {error}", file=sys.stderr)
        else:
            write_result(result_path(folder, script.name), result)
            print(f"{result.facts.seconds:.0f} s, {len(result.rows)} rows", flush=True)
        # After each: an interrupted run leaves a page that agrees with the files.
        write_page(scripts, folder)
    return failed


def write_page(scripts: Sequence[Script], folder: Path) -> None:
    """RESULTS.md from the files of results."""
    found = {script.name: read_result(result_path(folder, script.name)) for script in scripts}
    results = {name: result for name, result in found.items() if result is not None}
    with atomic_write(folder / PAGE) as file:
        file.write(results_page(scripts, results).encode())


def _forget(script: Script, folder: Path) -> None:
    """Earlier results no longer say what the script gives."""
    result_path(folder, script.name).unlink(missing_ok=True)
    if script.plot:
        (folder / RESULTS / script.plot).unlink(missing_ok=True)


def main(args: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    names = [script.name for script in SCRIPTS]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a minute in all; figures mean little")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        default=names,
        metavar="NAME",
        help=f"of {', '.join(names)}",
    )
    parser.add_argument("--out", type=Path, help="folder of the page and the results")
    arguments = parser.parse_args(args)
    folder = arguments.out or (QUICK_FOLDER if arguments.quick else HERE)
    chosen = [script for script in SCRIPTS if script.name in arguments.only]
    failed = run_all(SCRIPTS, chosen, folder, quick=arguments.quick)
    print(folder / PAGE)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
