"""Train or fine-tune a PJVLT; the same as `pjvlt-train`. With several processes: `accelerate launch scripts/train.py`."""

import sys

from modeling_pjvlt.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
