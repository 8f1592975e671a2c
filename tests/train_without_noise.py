"""`pjvlt-train` without dropout and Gumbel noise and with BatchNorm in eval, to compare sums over processes."""

import sys

from modeling_pjvlt import PJVLTModel
from modeling_pjvlt.cli.train import main

if __name__ == "__main__":
    PJVLTModel.train = lambda self, mode=True: super(PJVLTModel, self).train(False)
    sys.exit(main(sys.argv[1:]))
