"""What the command `sdrpn` takes to start, beside a bare Python and beside importing torch.

    python benchmarks/startup.py [--quick]

Every case is a fresh process, from its start to its end:

- python: an interpreter that does nothing;
- torch, transformers: one that imports both;
- sdrpn ...: the command with these words, none of which needs a model.

``ratio`` is to the bare interpreter, ``to_torch`` to the imports. Medians of rounds that take the
cases in turns. ``modules`` are those that were imported by the end of the process. One JSON line
per case; full size takes about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial

from side_by_side import in_turns, print_row

BENCHMARK = "startup"
PYTHON, TORCH = "python", "torch, transformers"
COMMANDS = ("--help", "--version", "plugins", "ask --help")
ROUNDS, QUICK_ROUNDS = 15, 1

CASES = {
    PYTHON: "pass",
    TORCH: "import torch, transformers",
    # What the installed script does, which need not be on the path.
    **{
        f"sdrpn {words}": f"from sdrpn_core.cli.main import main; main({words.split()!r})"
        for words in COMMANDS
    },
}
#: Goes before the code of a case; what is registered first runs last.
COUNT = """import atexit, sys
@atexit.register
def count(modules=sys.modules, file=sys.stderr):
    print(len(modules), *(int(name in modules) for name in ("torch", "transformers")), file=file)
"""


def run(code: str) -> str:
    """Run code in a fresh process; returns what it wrote to stderr."""
    words = [sys.executable, "-c", code]
    result = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if result.returncode:
        raise RuntimeError(f"a process of the benchmark failed:\n{result.stderr}")
    return result.stderr


def imports(code: str) -> tuple[int, bool, bool]:
    """How many modules are imported by the end, and whether torch and transformers are."""
    n_modules, torch, transformers = map(int, run(COUNT + code).splitlines()[-1].split())
    return n_modules, bool(torch), bool(transformers)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    rounds = QUICK_ROUNDS if parser.parse_args().quick else ROUNDS
    # This also reads every file once, so that no round pays for a cold disk.
    imported = {case: imports(code) for case, code in CASES.items()}
    times = in_turns(
        {case: partial(run, code) for case, code in CASES.items()}, rounds, warm_up=False
    )
    for case in CASES:
        n_modules, torch, transformers = imported[case]
        print_row(
            BENCHMARK,
            case=case,
            seconds=times.median(case),
            ratio=times.ratio(case, PYTHON),
            to_torch=times.ratio(case, TORCH),
            modules=n_modules,
            imports_torch=torch,
            imports_transformers=transformers,
        )


if __name__ == "__main__":
    main()
