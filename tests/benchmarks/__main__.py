"""`python -m tests.benchmarks PART …`, or `make bench PART=… ARGS=…`: one benchmark, its figures on the output.

Each prints JSON, compares two things in one run, and verifies its own output. They start servers of their own.
"""

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "platform"))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

PARTS = sorted(path.stem for path in (Path(__file__).parent / "parts").glob("[a-z]*.py"))


def main(arguments: list[str]) -> None:
    """Run the part that the first argument names, with the others."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    part = parser.parse_args(arguments[:1]).part
    command = import_module(f"tests.benchmarks.parts.{part}").Command()
    command.run_from_argv(["tests.benchmarks", part, *arguments[1:]])


if __name__ == "__main__":
    main(sys.argv[1:])
