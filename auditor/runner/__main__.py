"""`python -m auditor.runner --handlers module:function`: the process that computes one unit."""

from __future__ import annotations

import argparse
import sys

from auditor.runner.child import main

parser = argparse.ArgumentParser(prog="auditor.runner", description="Runs one unit; started by the auditor itself.")
parser.add_argument("--handlers", required=True, help="module:function of the handler table")
sys.exit(main(parser.parse_args().handlers))
