"""`python scripts/teach_words CHECKPOINT ...`; see `teach`."""

import sys

from teach import main

if __name__ == "__main__":
    sys.exit(main())
