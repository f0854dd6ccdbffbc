"""`python -m auditor.runner --handlers module:function`: the process that computes one unit."""

from __future__ import annotations

import argparse
import sys

from auditor.runner.child import main

parser = argparse.ArgumentParser(prog="auditor.runner", description="Runs one unit; started by the auditor itself.")
parser.add_argument("--handlers", required=True, help="module:function of the handler table")
parser.add_argument("--preload", nargs="*", default=[], help="Modules to import before the unit is read.")
args = parser.parse_args()
sys.exit(main(args.handlers, args.preload))
