"""CASE on THUMOS14, or on the embedded synthetic world.

Run:     python examples/train_thumos.py                       synthetic world, a minute on 2 CPU cores
         python examples/train_thumos.py --data DIR            features in the published layout:
             DIR/gt.json  DIR/split_{train,test}.txt  DIR/features/{train,test}/{rgb,flow}/<video>.npy
         python examples/train_thumos.py --dataset penn-untrimmed --data LABELS
             untrimmed videos composed of Penn Action's annotated poses, LABELS/0001.mat ...
Resume:  the same command with --resume.

Compare: --variant official | paper | corrected, --seeds 0-4 for mean and standard deviation.
Others:  --method co2net, with the clustering head of CASE --method co2net+case; --help lists them.

--help-all lists every option of the method with the equation it belongs to.
"""

import sys

from casejax.cli.main import Defaults, train

if __name__ == "__main__":
    sys.exit(train(defaults=Defaults(help=__doc__), command=f"python {sys.argv[0]}"))
