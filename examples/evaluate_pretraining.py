"""Score the features of pretrained checkpoints. The script calls `spectralgpt evaluate` from a checkout.

python examples/evaluate_pretraining.py before/ after/ --eurosat EuroSAT/ --chips chips/ --output scores.json
"""

import sys

from spectralgpt_cli import app


if __name__ == "__main__":
    app(["evaluate", *sys.argv[1:]])
