"""How long `import imprint` and `imprint --help` take, beside Python's own start and the import of torch."""

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python alone": ["-c", "pass"],
    "import imprint": ["-c", "import imprint"],
    "imprint --help": ["-m", "imprint", "--help"],
    "import torch": ["-c", "import torch"],
    "from imprint import Classifier": ["-c", "from imprint import Classifier"],
    "from imprint import ImageClassifier": ["-c", "from imprint import ImageClassifier"],
}


def seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    seconds(COMMANDS["import torch"])  # its files are read once for all
    times = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    alone = statistics.median(times["python alone"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(
            f"{name:36} {median:.3f} s ({min(taken):.3f}-{max(taken):.3f}), {median - alone:.3f} beyond Python's start"
        )
