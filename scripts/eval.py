"""Evaluate a PJVLT on tracking datasets; the same as `pjvlt-eval`. Several processes: `accelerate launch scripts/eval.py`."""

import sys

from modeling_pjvlt.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
