"""What the benchmarks share: a Keras process, timing, and figures with their spread."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
IMPRINT = [sys.executable, "-m", "imprint"]


class Keras:
    """A Keras process that does one thing at a time and says how long it took."""

    def __init__(self, python, script, *arguments):
        command = [python, HERE / script, *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.version = json.loads(self.process.stdout.readline())["keras"]

    def do(self, command):
        """Give the seconds that a command took."""
        return self.ask(command)["seconds"]

    def ask(self, command):
        """Give all that a command answers."""
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def timed(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def spread(values):
    return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"


# A small process in between: Linux counts the memory of the one that starts a command as the command's own.
METER = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(json.dumps({"stdout": done.stdout, "memory": memory}))
"""


def metered(command):
    """Run a command: the JSON it prints, its seconds from start to end, and its peak memory in MB."""
    started = time.perf_counter()
    outer = [sys.executable, "-c", METER, *map(str, command)]
    answer = json.loads(subprocess.run(outer, stdout=subprocess.PIPE, check=True).stdout)
    return json.loads(answer["stdout"]), time.perf_counter() - started, answer["memory"]


def machine():
    """Name the machine and the versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()}, {cores} cores; Python {platform.python_version()}, torch {version('torch')}"
