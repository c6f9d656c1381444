"""Compare the time of `import spectralgpt_hf` with that of the auto classes of transformers, which it imports.

    python benchmarks/import_time.py [--repeats 9]

Each import runs in a process of its own. The two alternate, and the ratio is the median over the pairs.
"""

import argparse
import statistics
import subprocess
import sys


AUTO_CLASSES = """
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.modeling_auto import AutoModel
"""
TIMER = "import time; start = time.perf_counter()\n{}\nprint(time.perf_counter() - start)"


def seconds(statements: str) -> float:
    command = [sys.executable, "-c", TIMER.format(statements)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    seconds("import spectralgpt_hf")  # fills the file cache
    pairs = [(seconds("import spectralgpt_hf"), seconds(AUTO_CLASSES)) for _ in range(options.repeats)]
    ours, theirs = (statistics.median(times) for times in zip(*pairs))
    ratio = statistics.median(first / second for first, second in pairs)
    print(f"import spectralgpt_hf: {ours:.2f} s; transformers' auto classes alone: {theirs:.2f} s; ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
