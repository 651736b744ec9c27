"""How an exported model serves: parity, latency, throughput, start and memory, beside the torch path in one run."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import IMPRINT, machine, spread, timed

import imprint
from imprint.data.load import load

SINGLE = 2000  # predictions of one image each
WARM_UP = 0.1  # of all predictions, before memory is first measured
REQUEST_SIZES = (1, 7, 128, 1000)  # images of one call, in turn


def resident():
    """Measure this process's resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def read(path):
    return imprint.OnnxClassifier.load(path) if path.suffix == ".onnx" else imprint.Classifier.load(path, "cpu")


def growth_of_memory(path, data, predictions):
    """Predict that many images in this process; print memory after warming up, its peak since, and at the end."""
    model, images = read(path), load(data)[:8000]
    done, turn, warm, peak = 0, 0, 0.0, 0.0
    while done < predictions:
        size = REQUEST_SIZES[turn % len(REQUEST_SIZES)]
        start = (turn * 613) % (len(images) - size)
        model.predict(images[start : start + size])
        done, turn = done + size, turn + 1
        if turn % 100 == 0 and done >= WARM_UP * predictions:
            warm = warm or resident()
            peak = max(peak, resident())
    print(json.dumps({"predictions": done, "warm": warm, "peak": peak, "end": resident()}))


def latency(predict, images):
    """Time predictions of one image each: median, 95th and 99th percentile in milliseconds."""
    seconds = [timed(lambda i=i: predict(images[i : i + 1])) for i in range(SINGLE)]
    p50, p95, p99 = np.percentile(np.array(seconds[SINGLE // 10 :]) * 1e3, [50, 95, 99])
    return f"p50 {p50:.3f} ms, p95 {p95:.3f}, p99 {p99:.3f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with Kaggle's train.csv and test.csv, or of class folders")
    parser.add_argument("--model", type=Path, help="a model file; without it, the default recipe is trained")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--predictions", type=int, default=1_000_000, help="for the growth of memory; 0 skips it")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory_of:
        growth_of_memory(given.memory_of, given.data, given.predictions)
        return
    print(machine(), flush=True)
    work = Path(tempfile.mkdtemp())
    digits = (given.data / "test.csv").exists()
    train_path, test_path = (given.data / name if digits else given.data for name in ("train.csv", "test.csv"))
    train, test = load(train_path), load(test_path)
    model_file, exported, small = work / "m.safetensors", work / "m.onnx", work / "int8.onnx"
    if given.model is None:
        imprint.train(train, device="cpu", verbose=False).model.save(model_file)
    else:
        model_file.write_bytes(given.model.read_bytes())
    model = imprint.Classifier.load(model_file, "cpu")
    started = time.perf_counter()
    print(imprint.export(model, exported, test))
    print(f"export and comparison: {time.perf_counter() - started:.2f} s, {exported.stat().st_size / 1e3:.0f} kB")
    held_out = train[np.random.default_rng(0).permutation(len(train))[:10_000]]
    print("int8, on images it was trained on:", imprint.export(model, small, held_out, int8=True).rounding)
    print(f"int8: {small.stat().st_size / 1e3:.0f} kB", flush=True)

    onnx, int8 = read(exported), read(small)
    print("one image, onnxruntime alone:", latency(lambda one: onnx.session.run(None, {"pixels": one}), test.pixels))
    for name, predictor in (("onnxruntime", onnx), ("int8", int8), ("torch", model)):
        print(f"one image, predict, {name}:", latency(predictor.predict, test), flush=True)

    seconds = {"onnxruntime": [], "int8": [], "torch": []}
    for _ in range(given.rounds):
        for name, predictor in (("onnxruntime", onnx), ("int8", int8), ("torch", model)):
            seconds[name].append(timed(lambda predictor=predictor: predictor.predict(test)))
    for name, values in seconds.items():
        ratios = [torch / value for torch, value in zip(seconds["torch"], values, strict=True)]
        print(f"{len(test):,} images, {name}: {spread(values)} s; times torch's speed: {spread(ratios)}", flush=True)

    few = work / "few.csv" if digits else sorted(given.data.iterdir())[0]
    if digits:
        few.write_text("".join(test_path.open().readlines()[:101]))
    for path in (exported, model_file):
        command = [*IMPRINT, "predict", str(path), str(few), "-o", str(work / "result.csv")]
        taken = [
            timed(lambda command=command: subprocess.run(command, check=True, stderr=subprocess.DEVNULL))
            for _ in range(given.rounds)
        ]
        print(f"imprint predict {path.suffix}, {few.name}, start to end: {spread(taken)} s", flush=True)

    for path in (exported, model_file) if given.predictions else ():
        command = [sys.executable, __file__, str(test_path), "--memory-of", str(path)]
        done = subprocess.run([*command, "--predictions", str(given.predictions)], stdout=subprocess.PIPE, check=True)
        found = json.loads(done.stdout)
        growth = found["peak"] / found["warm"] - 1
        print(
            f"{found['predictions']:,} predictions, {path.suffix}: {found['warm']:.0f} MB when warm, "
            f"{found['peak']:.0f} at the peak, {found['end']:.0f} at the end: growth {growth:+.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
