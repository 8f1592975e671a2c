"""`pjvlt-train` with dropout and Gumbel noise off and BatchNorm in eval, so that sums over processes can be compared."""

import sys

from modeling_pjvlt import PJVLTModel
from modeling_pjvlt.cli.train import main

if __name__ == "__main__":
    PJVLTModel.train = lambda self, mode=True: super(PJVLTModel, self).train(False)
    sys.exit(main(sys.argv[1:]))
