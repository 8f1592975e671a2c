"""The same as `pjvlt-convert`."""

import sys

from modeling_pjvlt.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())
