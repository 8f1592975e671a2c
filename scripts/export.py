"""Export a PJVLT to ONNX or torch.export; the same as `pjvlt-export`."""

import sys

from modeling_pjvlt.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
