"""What a GPU makes of Imprint, on a bare machine: one table, in under eight minutes.

    PYTHONPATH=src python benchmarks/gpu.py digits.npz [--cifar train.zip] [--cifar-test test.zip]
        [--airbench airbench94_muon.py] [--minutes 8]

Needs torch, numpy, Pillow, scipy, scikit-learn and jaxtyping: that one stands in every signature, and is two small
wheels of pure Python, which `pip download jaxtyping` (with wadler-lindig) makes ready to be carried. Neither polars,
typer, rich, matplotlib nor safetensors is used. `benchmarks/gpu.py --pack train.csv digits.npz` turns the CSV of
Kaggle's digits into digits.npz; with CIFAR-10 as a zip of JPEGs all of it is below 60 MiB.

The last 10,000 images of each are kept back and predicted by the model, unless --cifar-test names others. «Loop» is
what `Run.seconds` tells; «busy» the time of kernels in it, by torch.profiler in a run of its own. airbench94 is
github.com/KellerJordan/cifar10-airbench: it gets the same images and computes eagerly; torchvision, of which it uses
one class, need not be installed.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STARTED = time.perf_counter()
KEPT_BACK = 10_000
PREDICT = """
import sys, imprint
run = imprint.train(sys.argv[1], "quick", test=sys.argv[2], device=sys.argv[4], verbose=False)
run.result.write_csv(sys.argv[3])
"""
TORCHVISION = {  # as much of it as airbench94 uses
    "__init__.py": "",
    "transforms.py": """
class Normalize:
    def __init__(self, mean, std):
        self.mean, self.std = mean[:, None, None], std[:, None, None]

    def __call__(self, images):
        return (images - self.mean.to(images)) / self.std.to(images)
""",
}


def pack(csv, npz):
    import numpy as np

    import imprint

    digits = imprint.load(csv)
    np.savez_compressed(npz, images=digits.pixels[:, 0], labels=digits.labels)


class Table:
    """Rows printed as they come; what would begin too late is left out, and said."""

    def __init__(self, seconds):
        self.seconds = seconds
        print("| what | loop, s | whole, s | accuracy | more |\n| --- | --- | --- | --- | --- |")

    def row(self, what, loop="", whole="", accuracy="", more=""):
        print(f"| {what} | {loop} | {whole} | {accuracy} | {more} |", flush=True)

    def within(self, what, needs):
        left = self.seconds - (time.perf_counter() - STARTED)
        if left < needs:
            self.row(what, more=f"left out: {left:.0f} s left, may need {needs}")
        return left >= needs


def spread(values, digits=2):
    values = sorted(values)
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({values[0]:.{digits}f}-{values[-1]:.{digits}f})"


def trained(images, unseen, recipe, device, **fields):
    """Train; gives the run, the seconds of all of it and the accuracy on unseen images."""
    import imprint

    started = time.perf_counter()
    run = imprint.train(images, recipe, device=device, verbose=False, **fields)
    whole = time.perf_counter() - started
    return run, whole, float((run.model.predict(unseen).labels == unseen.labels_among(run.model.class_names)).mean())


def measure(table, what, images, unseen, recipe, device, seeds, needs):
    runs = []
    for seed in range(1, seeds + 1):
        if table.within(f"{what}, seed {seed}", needs):
            runs.append(trained(images, unseen, recipe, device, seed=seed))
    if runs:
        loops, wholes, accuracies = ([one.seconds for one, *_ in runs], *([r[i] for r in runs] for i in (1, 2)))
        first = f"first loop {loops[0]:.2f} s"
        table.row(f"{what}, {len(runs)} seeds", spread(loops), spread(wholes), spread(accuracies, 4), first)


def measure_busy(table, images, unseen, device):
    """How long kernels ran in the loop of `quick`, and how many."""
    from torch.profiler import ProfilerActivity, profile

    import imprint.runs.training as training

    fit, shares = training.fit, []

    def profiled(*given):
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            started = time.perf_counter()
            fit(*given)
            seconds = time.perf_counter() - started
        kernels = [event for event in profiler.events() if event.device_type.name == "CUDA"]
        busy = sum(event.time_range.elapsed_us() for event in kernels) / 1e6
        shares.append(f"{busy:.2f} of {seconds:.2f} s: {busy / seconds:.0%}; {len(kernels):,} kernels")

    training.fit = profiled
    try:
        trained(images, unseen, "quick", device)
    finally:
        training.fit = fit
    table.row("GPU busy in the loop of `quick`", more="; ".join(shares))


def measure_same_bytes(table, images, unseen, device):
    import torch

    for answer in ("no", "yes"):
        runs = [trained(images, unseen, "quick", device, deterministic=answer) for _ in range(2)]
        first, second = (run.model.network.state_dict() for run, *_ in runs)
        same = all(torch.equal(first[name], second[name]) for name in first)
        loops = spread([run.seconds for run, *_ in runs])
        table.row(f"`quick` twice, deterministic={answer}", loops, more="same bytes" if same else "other bytes")


def measure_start(table, images, unseen, device, folder):
    """From starting Python, with nothing kept from before, to written predictions; then again."""
    import numpy as np

    np.savez(folder / "train.npz", images=images.pixels[:, 0], labels=images.labels)
    np.savez(folder / "test.npz", images=unseen.pixels[:, 0])
    environment = os.environ | {"IMPRINT_CACHE": str(folder / "fresh")}
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        command = [sys.executable, "-c", PREDICT, "train.npz", "test.npz", "result.csv", device]
        subprocess.run(command, cwd=folder, env=environment, check=True)
        seconds.append(time.perf_counter() - started)
    rows = len((folder / "result.csv").read_text().splitlines()) - 1
    more = f"{rows:,} predictions; again {seconds[1]:.1f} s"
    table.row("from starting Python with .npz to written predictions", whole=f"{seconds[0]:.1f}", more=more)


def measure_airbench(table, script, images, unseen, folder, runs, seconds):
    """Run airbench94 on the same images until it has printed so many runs, or is out of time."""
    import torch

    (folder / "cifar10").mkdir()
    for name, part in (("train", images), ("test", unseen)):
        pixels = torch.from_numpy(part.pixels.copy()).permute(0, 2, 3, 1).contiguous()
        labels = torch.from_numpy(part.labels_among(images.class_names))
        kept = {"images": pixels, "labels": labels, "classes": list(images.class_names)}
        torch.save(kept, folder / f"cifar10/{name}.pt")
    (folder / "torchvision").mkdir()
    for name, text in TORCHVISION.items():
        (folder / "torchvision" / name).write_text(text)
    paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(folder)]))  # an installed one is first
    environment = os.environ | {"TORCHDYNAMO_DISABLE": "1", "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(script.resolve())]
    accuracies, loops, until = [], [], time.perf_counter() + seconds
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            cells = [cell.strip() for cell in line.split("|")[1:-1]]
            if len(cells) == 6 and cells[1] == "eval" and cells[0].isdigit():
                accuracies.append(float(cells[4]))
                loops.append(float(cells[5]))
            if len(loops) == runs or time.perf_counter() > until:
                process.kill()
                break
    told = f"exit status {process.returncode}" if not loops else "eager, after its own warm-up"
    loop, accuracy = (spread(loops), spread(accuracies, 4)) if loops else ("", "")
    table.row(f"airbench94, {len(loops)} runs", loop, accuracy=accuracy, more=told)


def split(images):
    """Keep the last images back, of images in random order."""
    import numpy as np

    order = np.random.default_rng(0).permutation(len(images))
    kept_back = min(KEPT_BACK, len(images) // 4)
    return images[np.sort(order[kept_back:])], images[np.sort(order[:kept_back])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("digits", type=Path)
    parser.add_argument("--pack", type=Path, metavar="CSV", help="write digits.npz from this CSV, and end")
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--cifar-test", type=Path)
    parser.add_argument("--airbench", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--recipes", nargs="+", default=["quick", "best", "record"])
    given = parser.parse_args()
    if given.pack:
        return pack(given.pack, given.digits)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["IMPRINT_CACHE"] = str(folder / "cache")
        import torch

        import imprint
        from imprint.models.hardware import chosen_compute_configs

        card = torch.cuda.get_device_name() if given.device == "cuda" else platform.processor() or platform.machine()
        print(f"{card}; Python {platform.python_version()}, torch {torch.__version__}, Imprint {imprint.__version__}\n")
        table = Table(60 * given.minutes)
        images, unseen = split(imprint.load(given.digits))
        measure_start(table, images, unseen, given.device, folder)
        if "quick" in given.recipes:
            measure(table, "digits, `quick`", images, unseen, "quick", given.device, given.seeds, 10)
            if given.device == "cuda":
                measure_busy(table, images, unseen, given.device)
            measure_same_bytes(table, images, unseen, given.device)
        if given.cifar:
            photos, others = imprint.load(given.cifar), given.cifar_test
            photos, new = split(photos) if others is None else (photos, imprint.load(others))
            for recipe in [one for one in ("quick", "best") if one in given.recipes]:
                measure(table, f"CIFAR-10, `{recipe}`", photos, new, recipe, given.device, given.seeds, 30)
            if given.airbench and table.within("airbench94", 60):
                measure_airbench(table, given.airbench, photos, new, folder, runs=5, seconds=60)
        for recipe, seeds, needs in (("best", given.seeds, 25), ("record", 1, 100)):
            if recipe in given.recipes:
                measure(table, f"digits, `{recipe}`", images, unseen, recipe, given.device, seeds, needs)
        print("\nchosen:")
        for asked, config in chosen_compute_configs(torch.device(given.device)).items():
            print(f"- {asked}: {config}")
        print(f"\n{time.perf_counter() - STARTED:.0f} s in all")
    return None


if __name__ == "__main__":
    main()
