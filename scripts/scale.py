"""Training on several processes, measured: each line tells what was tried, and the number that was to be reached.

python scripts/scale.py [ROW…]: all rows, or those named; `--digits train.csv` and `--photos folder` for rows that need
more than the bundled digits. `docs/log/scale.md` has the figures.
"""

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve()
IMPRINT = [sys.executable, "-m", "imprint"]
QUICK = ["--recipe", "quick", "--validation", "0.06", "--batch-size", "50"]
SHORT = [*QUICK, "--epochs", "2", "--set", "min_steps=6"]
LONG = [*QUICK, "--epochs", "40", "--set", "min_steps=40"]


def torchrun(processes, *options):
    """Give the command of torchrun for this machine; the program and its arguments come after it."""
    where = [] if any(one.startswith("--nnodes") for one in options) else ["--standalone"]
    return [sys.executable, "-m", "torch.distributed.run", *where, f"--nproc-per-node={processes}", *options]


def environment(**more):
    return {**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1", **more}


def run(command, status=0, **more):
    """Run a command to its end; gives its lines on stderr."""
    done = subprocess.run(command, capture_output=True, text=True, env=environment(**more))
    assert status is None or done.returncode == status, (command, done.returncode, done.stdout, done.stderr)
    return done.stderr.splitlines()


def tensors(path):
    from safetensors.numpy import load_file

    return load_file(path)


# Workers: what each process of a row runs. They are given by name: scale.py --worker NAME ARGUMENTS.


def worker_weights(out, keep="", resume=""):
    """Train `quick` on digits in float64 for three epochs with hard sampling; note weights, orders and predictions.

    With `keep`, write a checkpoint after two of them; with `resume`, go on from one.
    """
    import torch

    import imprint
    from imprint.models.hardware import compute_settings
    from imprint.models.inference import predict_probabilities
    from imprint.training import fit as loop
    from imprint.training.checkpoint import Checkpoint, follow_first, read_resumable_run, start_network
    from imprint.training.launching import crew_of_torchrun
    from imprint.training.plan import make_plan, share_plan

    orders, drawn = [], loop.epoch_order

    def noted(*arguments, **named):
        orders.append(drawn(*arguments, **named))
        return orders[-1]

    precision = os.environ.get("PRECISION", "float64")
    fields = {"epochs": 3, "min_steps": 4, "batch_size": 50, "precision": precision}
    with crew_of_torchrun() as crew, compute_settings(1):
        images = imprint.load("digits")[:400]
        plan = share_plan(make_plan(images, "quick", device="cpu", validation=0.1, **fields), crew)
        torch.manual_seed(1)
        state = read_resumable_run(Path(resume)).restore(plan) if resume else start_network(plan)
        checkpoint = Checkpoint(Path(keep), plan, {}) if keep and crew.leads else None
        if checkpoint is not None:
            checkpoint.due = lambda: state.epoch == 2
            write = checkpoint.write
            checkpoint.write = lambda kept: write(kept) if kept.epoch == 2 else None
        predicted = {}
        with crew.joined(plan.device):
            follow_first(state)
            loop.epoch_order = noted
            try:
                loop.fit(state, torch.from_numpy(images.pixels), torch.from_numpy(images.labels), checkpoint)
            finally:
                loop.epoch_order = drawn
            for count in (101, 3, 2):

                def own(rows, count=count):
                    return predict_probabilities(state.network, images.pixels[:count][rows], plan.spec)

                predicted[f"predicted/{count}"] = crew.whole(count, own, plan.device)
    if crew.leads:
        named = {name: tensor.double().numpy() for name, tensor in state.training_tensors().items()}
        history = {f"history/{key}": np.array(column) for key, column in state.history.items() if key != "seconds"}
        np.savez(out, orders=torch.cat(orders).numpy(), **named, **history, **predicted)


def worker_odd(what, *arguments):
    """Run imprint with something different on rank 1."""
    import imprint.runs.training
    from imprint.__main__ import main

    words = list(arguments)
    if os.environ.get("RANK") == "1":
        if what == "version":
            imprint.runs.training.__version__ = "0.0.1"
        elif what == "label":
            words[1] = os.environ["OTHER_DATA"]
        elif what == "recipe":
            words += ["--set", "label_smoothing=0.05"]
        elif what == "missing":
            words[1] = "nowhere.csv"
    elif what == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sys.argv = ["imprint", *words]
    main()


def worker_steps(recipe, photos, seconds):
    """Time steady steps of a recipe; gives images a second."""
    import torch

    import imprint
    from imprint.models.hardware import choose_compute_config, compute_settings
    from imprint.training import fit as loop
    from imprint.training.checkpoint import follow_first, start_network
    from imprint.training.launching import crew_of_torchrun
    from imprint.training.plan import make_plan, share_plan

    with crew_of_torchrun() as crew:
        images = imprint.load(photos) if recipe == "photos" else imprint.load("digits")
        plan = share_plan(make_plan(images, recipe, device="cpu", epochs=1, min_steps=10**4, validation=0.0), crew)
        choose_compute_config(plan.device)
        with compute_settings(torch.get_num_threads()), crew.joined(plan.device):
            torch.manual_seed(1)
            state = start_network(plan)
            follow_first(state)
            taken, times = loop.train_step, []

            def timed(*given):
                times.append(time.perf_counter())
                if times[-1] - times[0] > float(seconds) and len(times) > 20 and crew.leads:
                    crew._stop_asked = 1.0
                if len(times) > 20 and crew.size == 1 and times[-1] - times[0] > float(seconds):
                    raise KeyboardInterrupt
                return taken(*given)

            loop.train_step = timed
            try:
                loop.fit(state, torch.from_numpy(images.pixels), torch.from_numpy(images.labels))
            except KeyboardInterrupt:
                steady = np.diff(times[10:])
    if crew.leads:
        print(f"IMAGES {plan.batch_size / float(np.median(steady)):.1f}", flush=True)


def worker_mapped(key, rows, recipe, steps):
    """Train on images of the cache, or on so many of them in memory; gives images a second, and what was resident."""
    import imprint
    from imprint.data import cache
    from imprint.training import fit as loop

    pixels, _ = cache.lookup(key)
    pixels = np.array(pixels[: int(rows)]) if int(rows) else pixels
    labels = np.arange(len(pixels)) % 2
    pixels = pixels if isinstance(pixels, np.memmap) else np.ascontiguousarray(pixels)
    images = imprint.LabelledImages(pixels, labels, ("even", "odd"), np.arange(len(pixels)))
    most, times, done = {"RssAnon": 0, "RssFile": 0}, [], threading.Event()

    def watch():
        while not done.wait(0.02):
            lines = Path("/proc/self/status").read_text().splitlines()
            now = {line.split(":")[0]: int(line.split()[1]) / 1000 for line in lines if line.startswith("Rss")}
            most.update({name: max(now[name], before) for name, before in most.items()})

    taken = loop.train_step

    def timed(*given):
        times.append(time.perf_counter())
        return taken(*given)

    loop.train_step = timed
    watching = threading.Thread(target=watch)
    watching.start()
    fields = {"epochs": 1, "steps_per_epoch": int(steps), "min_steps": 0, "batch_size": 64}
    fields |= {"largest_side": 28} if recipe == "quick" else {}
    started, begun = time.perf_counter(), time.process_time()
    imprint.train(images, recipe, validation=200 / len(pixels), device="cpu", verbose=False, **fields)
    whole = time.perf_counter() - started
    done.set()
    watching.join()
    lasted = np.diff(times[-int(steps) :])  # before them, steps were timed to estimate how long it takes
    facts = {"images": 64 / lasted.mean(), "median": 64 / np.median(lasted), "seconds": whole}
    print(json.dumps(facts | most | {"cpu": time.process_time() - begun}), flush=True)


# Rows: each is a line of the table.


def weights(folder, processes, name=None, keep="", resume="", **more):
    """Train in so many processes, and give what `worker_weights` noted."""
    out = folder / (name or f"{processes}.npz")
    words = [str(HERE), "--worker", "weights", str(out), str(keep), str(resume)]
    run([*([sys.executable] if processes == 1 else torchrun(processes)), *words], **more)
    return dict(np.load(out))


def difference(one, other):
    """The largest difference of two sets of weights, relative to the largest number of each tensor."""
    names = [name for name in one if name.startswith(("network/", "optimiser/"))]
    assert names
    return max(float(np.abs(one[name] - other[name]).max() / (np.abs(one[name]).max() + 1e-300)) for name in names)


def row_equal(folder, _):
    """In float64, any number of processes gives the weights of one, and takes the same images in the same order."""
    one = weights(folder, 1)
    for processes in (2, 3, 4):
        other = weights(folder, processes)
        same = bool((one["orders"] == other["orders"]).all())
        yield f"{processes} processes: weights differ by {difference(one, other):.1e}; orders equal: {same}"


def row_same_bytes(folder, _):
    """One process under torchrun writes the bytes of a plain run."""
    run([*IMPRINT, "train", "digits", *SHORT, "--run", str(folder / "plain")])
    words = ["-m", "imprint", "--", "train", "digits", *SHORT, "--run", str(folder / "launched")]
    run([*torchrun(1), *words])
    one, other = (tensors(folder / name / "model.safetensors") for name in ("plain", "launched"))
    yield f"same bytes: {all(one[name].tobytes() == other[name].tobytes() for name in one | other)}"


def row_accuracy(folder, given):
    """Mean accuracy of `quick` over 5 seeds, with one process and two."""
    means = {}
    for processes in (1, 2):
        found = []
        for seed in range(1, 6):
            out = folder / f"{processes}-{seed}"
            words = ["--recipe", "quick", "--validation", "0.238", "--seed", str(seed)]
            started = ["--processes", str(processes)] if processes > 1 else []
            run([*IMPRINT, "train", given.digits, *words, "--run", str(out), *started])
            found.append(json.loads((out / "metrics.json").read_text())["validation"]["accuracy"])
        means[processes] = np.mean(found)
        yield f"{processes} processes: {np.mean(found):.4f} ({', '.join(f'{one:.4f}' for one in found)})"
    yield f"difference of the means: {means[2] - means[1]:+.4f}"


def row_validation(folder, _):
    """Each validation image is counted once, however many processes there are."""
    one = weights(folder, 1)
    for processes in (2, 3, 4, 5):
        other = weights(folder, processes)
        names = [f"predicted/{count}" for count in (101, 3, 2)]
        apart = max(float(np.abs(one[name] - other[name]).max()) for name in names)
        sums = ", ".join(f"{other[name].sum():.4f}" for name in names)
        yield f"{processes} processes, 101, 3 and 2 images: differ by {apart:.1e}; sums of probabilities {sums}"


def row_resume(folder, _):
    """A run of two processes that was stopped goes on with any number."""
    for precision, numbers in (("float64", (1, 3, 4)), ("float32", (2,))):
        stopped = folder / precision
        stopped.mkdir()
        whole = weights(folder, 2, "whole.npz", keep=stopped, PRECISION=precision)
        for processes in numbers:
            taken_up = weights(folder, processes, "taken-up.npz", resume=stopped, PRECISION=precision)
            same = all((whole[name] == taken_up[name]).all() for name in whole if name.startswith("network/"))
            found = f"weights differ by {difference(whole, taken_up):.1e}; same bytes: {same}"
            yield f"2 to {processes} in {precision}: {found}"


def start(folder, processes, *words, launcher=None, **more):
    """Start a long run; gives its process after two epochs, and the processes of its ranks."""
    command = launcher or [*IMPRINT, "train", "digits", *LONG, "--run", str(folder), "--processes", str(processes)]
    process = subprocess.Popen(
        [*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**more)
    )
    told = []
    for line in process.stderr:
        told.append(line)
        if line.startswith("Epoch 2/"):
            break
    assert process.poll() is None, told
    return process, ranks_of(process.pid, processes)


def ranks_of(parent, processes):
    """Find the processes of a launcher, by rank."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if re.search(rf"^PPid:\s+{parent}$", status.read_text(), re.MULTILINE):
                words = (status.parent / "environ").read_bytes().split(b"\0")
                rank = next((int(word[5:]) for word in words if word.startswith(b"RANK=")), None)
                if rank is not None:
                    found[rank] = int(status.parent.name)
        except OSError:
            continue
    assert len(found) == processes, found
    return found


def errors(text):
    return [line for line in text.splitlines() if line.startswith("error") or "Traceback" in line]


def row_killed(folder, _, processes=3):
    """A process that is killed is named in one line, within 10 seconds; the checkpoint is whole."""
    process, ranks = start(folder / "run", processes)
    killed = time.monotonic()
    os.kill(ranks[1], signal.SIGKILL)
    _, err = process.communicate()
    seconds = time.monotonic() - killed
    from imprint.training.checkpoint import read_resumable_run

    epochs = len(read_resumable_run(folder / "run").epochs)
    yield f"exit {process.returncode} after {seconds:.1f} s: {errors(err)}; checkpoint of {epochs} epochs"


def row_silent(folder, _):
    """A process that does not answer is named within the time-out and 4 seconds."""
    process, ranks = start(folder / "run", 3, IMPRINT_TIMEOUT="10")
    stopped = time.monotonic()
    os.kill(ranks[2], signal.SIGSTOP)
    named = None
    for line in process.stderr:
        if line.startswith("error"):
            named = f"after {time.monotonic() - stopped:.1f} s of a time-out of 10 s: {line.strip()}"
            break
    os.kill(ranks[2], signal.SIGKILL)
    process.communicate()
    yield named or "not named"


def row_odd(folder, given, kinds=("label", "recipe", "version", "missing")):
    """What differs on one process is refused within 5 seconds, and the process named."""
    images = folder / "digits.npz"
    import imprint

    digits = imprint.load("digits")[:400]
    names = np.array(digits.class_names)
    np.savez(images, x=digits.pixels[:, 0], y=names[digits.labels])
    labels = digits.labels.copy()
    labels[7] = (labels[7] + 1) % 10
    other = folder / "other" / "digits.npz"
    other.parent.mkdir()
    np.savez(other, x=digits.pixels[:, 0], y=names[labels])
    for what in kinds:
        words = [str(HERE), "--", "--worker", "odd", what, "train", str(images), *SHORT, "--run", str(folder / what)]
        started = time.monotonic()
        lines = run([*torchrun(3), *words], status=None, OTHER_DATA=str(other))
        told = [line for line in lines if line.startswith("error")]
        yield f"{what}: {time.monotonic() - started:.1f} s with the start; {told}; {(folder / what).exists()=}"


def row_full(folder, _):
    """A full disk on the first process is told in one line."""
    words = [str(HERE), "--", "--worker", "odd", "full", "train", "digits", *SHORT, "--run", str(folder / "full")]
    command = [*torchrun(2), *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        told = next(line for line in process.stderr if line.startswith("error"))
        failed = time.monotonic()
        others = errors(process.stderr.read().replace("Traceback", ""))  # torchrun's own report has one
    yield f"ended {time.monotonic() - failed:.1f} s after {told.strip()}; further errors: {others}"


def row_stopped(folder, _):
    """Ctrl-C stops all at the same step, and the model is kept; a second one ends at once."""
    for twice in (False, True):
        process, _ = start(folder / f"run{twice}", 2)
        pressed = time.monotonic()
        process.send_signal(signal.SIGINT)
        if twice:
            time.sleep(1.3)
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        said = [line for line in err.splitlines() if "stopped" in line or line.startswith("error")]
        kept = (folder / f"run{twice}" / "model.safetensors").exists()
        seconds = time.monotonic() - pressed
        yield f"{1 + twice} signals: exit {process.returncode} after {seconds:.1f} s; model kept: {kept}; {said}"


def row_restarted(folder, _):
    """Under --max-restarts a killed process makes all go on from the checkpoint; the end is that of an unbroken run."""
    words = ["-m", "imprint", "--", "train", "digits", *QUICK, "--epochs", "12", "--set", "min_steps=40", "--run"]
    run([*torchrun(2), *words, str(folder / "unbroken")])
    command = [*torchrun(2, "--max-restarts=1"), *words, str(folder / "broken")]
    process, ranks = start(folder / "broken", 2, launcher=command)
    os.kill(ranks[1], signal.SIGKILL)
    _, err = process.communicate()
    resumed = [line for line in err.splitlines() if line.startswith("resumed")]
    one, other = (tensors(folder / name / "model.safetensors") for name in ("unbroken", "broken"))
    same = all(one[name].tobytes() == other[name].tobytes() for name in one)
    yield f"exit {process.returncode}; {resumed}; same bytes as unbroken: {same}"


def row_orphans(folder, _):
    """No process outlives torchrun."""
    process, ranks = start(folder / "run", 2)
    process.kill()
    process.communicate()
    time.sleep(5)
    yield f"alive after 5 s: {[rank for rank, pid in ranks.items() if Path(f'/proc/{pid}').exists()]}"


def row_decoded(folder, given):
    """Images are decoded once a machine, however many processes ask for them."""
    spent = {}
    for processes in (1, 4):
        os.environ["IMPRINT_CACHE"] = str(folder / f"cache{processes}")
        words = [str(HERE), "--worker", "decode", given.photos]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run([*torchrun(processes), *words])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        caches = len(list((folder / f"cache{processes}").rglob("*.images")))
        spent[processes] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, caches
    alone = {}
    for processes in (1, 4):  # what starting takes, with the images in the cache
        os.environ["IMPRINT_CACHE"] = str(folder / f"cache{processes}")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run([*torchrun(processes), str(HERE), "--worker", "decode", given.photos])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        alone[processes] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    del os.environ["IMPRINT_CACHE"]
    one, four = (spent[n][0] - alone[n] for n in (1, 4))
    yield f"decoding took {one:.1f} s of CPU with 1 process, {four:.1f} with 4 ({four / one:.2f}); {spent[4][1]} cache"


def worker_decode(photos):
    import imprint

    imprint.load(photos, side=128)


def row_steps(folder, given):
    """Steady steps of two processes with a thread each, against one with two."""
    for recipe, target in (("quick", 0.75), ("photos", 0.88)):
        if recipe == "photos" and not given.photos:
            continue
        words = [str(HERE), "--worker", "steps", recipe, str(given.photos), "6"]
        speeds = {1: [], 2: []}
        for _ in range(3):
            for processes in (1, 2):
                command = [*([sys.executable] if processes == 1 else torchrun(2)), *words]
                done = subprocess.run(
                    command, capture_output=True, text=True, env=environment(OMP_NUM_THREADS=str(3 - processes))
                )
                assert done.returncode == 0, done.stderr
                speeds[processes].append(float(re.search(r"IMAGES ([\d.]+)", done.stdout)[1]))
        one, two = np.median(speeds[1]), np.median(speeds[2])
        yield f"{recipe}: {two:.0f} images a second against {one:.0f}: {two / one:.2f} (target {target})"


def row_dealt(folder, given):
    """`record`, or what of it fits: networks dealt to two processes with a thread each, against one with one thread."""
    words = ["train", given.digits or "digits", "--recipe", "record", "--epochs", "3", "--set", "ood_detector="]
    seconds = {}
    for processes in (1, 2):
        out = folder / str(processes)
        run([*IMPRINT, *words, "--run", str(out), "--processes", str(processes)])
        seconds[processes] = json.loads((out / "metrics.json").read_text())["seconds"]
    efficiency = seconds[1] / seconds[2] / 2
    yield f"{seconds[1]:.1f} s in one process, {seconds[2]:.1f} s in two: efficiency {efficiency:.2f}"


def row_dealt_stopped(folder, _):
    """Networks that were dealt to two processes and stopped are gone on with by one, and end as if unbroken."""
    words = [
        "--recipe",
        "best",
        "--epochs",
        "8",
        "--set",
        "min_steps=30",
        "--set",
        "elastic=0",
        "--set",
        "ood_detector=",
    ]
    words = [*IMPRINT, "train", "digits", *words, "--set", "networks=quick+quick", "--run"]
    run([*words, str(folder / "unbroken"), "--processes", "2"])
    command = [*words, str(folder / "broken"), "--processes", "2"]
    process, _ = start(folder / "broken", 2, launcher=command)
    process.send_signal(signal.SIGINT)
    told = errors(process.communicate()[1])
    resumed = [line for line in run([*words, str(folder / "broken")]) if line.startswith("resumed")]
    one, other = (tensors(folder / name / "model.safetensors") for name in ("unbroken", "broken"))
    same = all(one[name].tobytes() == other[name].tobytes() for name in one if name.startswith("members."))
    yield f"{told}; {resumed}; same bytes as unbroken: {same}"


def row_judges(folder, _):
    """The doctor finds the same with its networks dealt to three processes."""
    found = []
    for processes in (1, 3):
        command = [*IMPRINT, "check", "digits", "--json", "--processes", str(processes)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stderr
        found.append([json.loads(done.stdout), [line for line in done.stderr.splitlines() if "label" in line]])
    same = found[0][0] == found[1][0] and found[0][1][-1] == found[1][1][-1]
    yield f"{found[0][1][-1]}: {len(found[0][0]['findings'])} findings; the same with three processes: {same}"


def row_agents(folder, _):
    """Two agents of torchrun on one machine give what one with two processes gives."""
    one = weights(folder, 2)
    out = folder / "agents.npz"
    words = [str(HERE), "--worker", "weights", str(out)]
    shared = ["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:29517", "--rdzv-id=scale"]
    command = [*torchrun(1, *shared), *words]
    agents = [subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [agent.wait() for agent in agents] == [0, 0], [agent.stderr.read() for agent in agents]
    other = dict(np.load(out))
    yield f"weights differ by {difference(one, other):.1e}"


def worker_million(data):
    """Load images, hash their paths and hold some out; print seconds of CPU and memory of each."""
    import imprint
    from imprint.data.split import split
    from imprint.training.parent import ImageKeys

    def memory(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))

    found = []
    steps = {
        "load": lambda: found.append(imprint.load(data)),
        "hash pixels": lambda: found[0].fingerprint,
        "hash paths": lambda: ImageKeys.of(found[0]),
        "hold out": lambda: split(found[0], 0.1, 0),
    }
    for name, step in steps.items():
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
        before, start = memory("RssAnon"), time.process_time()
        step()
        seconds, kept, peak = time.process_time() - start, memory("RssAnon") - before, memory("VmHWM")
        print(f"{name}: {seconds:.2f} s of CPU, {kept:.0f} MB kept, {peak:.0f} MB resident at most", flush=True)


def row_million(folder, given):
    """Many tiny images in 1,000 class folders, decoded and found in the cache: memory and seconds of CPU."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(given.images):
        if i % 30_000 == 0:  # links to one file that ext4 allows, and some
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(file := folder / f"{i}.png")
        home = folder / "data" / f"class_{i % 1000:04d}_of_a_longer_name"
        home.mkdir(parents=True, exist_ok=True)
        os.link(file, home / f"image_{i:010d}.png")
    for times in ("decoded", "found in the cache"):
        command = [sys.executable, str(HERE), "--worker", "million", str(folder / "data")]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment(IMPRINT_CACHE=str(folder / "cache"))
        )
        assert done.returncode == 0, done.stderr
        yield from (f"{times}, {line}" for line in done.stdout.splitlines())


def limited(command, gigabytes):
    """Prefix a command so that it has so much memory, pages of files included; as it is where cgroups are not ours."""
    for group, name in (("memory/", "memory.limit_in_bytes"), ("", "memory.max")):
        folder = Path("/sys/fs/cgroup", group, f"imprint-scale-{os.getpid()}")
        try:
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(str(int(gigabytes * 2**30)))
        except OSError:
            continue
        return ["sh", "-c", f'echo $$ > {folder}/cgroup.procs; exec "$@"', "sh", *command], folder
    return command, None


def row_mapped(folder, given):
    """Images of 20 GB in the cache with 4 GB of memory: what is resident, and the speed against that in memory."""
    os.environ["IMPRINT_CACHE"] = str(folder / "cache")
    from imprint.data import cache

    block = np.random.default_rng(0).integers(0, 256, (1000, 3, 128, 128), np.uint8)
    count = int(given.gigabytes * 1e9 / block[0].nbytes) // 1000 * 1000
    with cache.writing("large") as writer:
        for start in range(0, count, 1000):
            block[:, 0, 0, :8] = np.arange(start, start + 1000)[:, None].view(np.uint8)  # no two are the same
            writer.add(block)
        writer.facts = {"name": "large", "shape": [count, 3, 128, 128]}
    (path,) = cache.folder().glob("*.images")
    for recipe, steps in (("quick", 300), ("photos", 100)):
        found = {}
        for rows in (0, 10_000, 0, 10_000):
            with open(path, "rb") as file:  # none of it is in memory
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            words = [sys.executable, str(HERE), "--worker", "mapped", "large", str(rows), recipe, str(steps)]
            command, group = limited(words, 4)
            done = subprocess.run(command, capture_output=True, text=True, env=environment())
            assert done.returncode == 0, done.stderr
            found.setdefault(rows, []).append(json.loads(done.stdout.splitlines()[-1]))
            if group is not None:
                group.rmdir()
        mapped, memory = (found[rows] for rows in (0, 10_000))
        for name in ("images", "median"):
            one, other = (np.mean([each[name] for each in several]) for several in (mapped, memory))
            told = "images a second" if name == "images" else "by the median step"
            yield f"{recipe}: {one:.0f} {told}, {other:.0f} in memory: {one / other:.2f}"
        anonymous, of_files = (max(each[name] for each in mapped) for name in ("RssAnon", "RssFile"))
        limit = "" if group is None else " with 4 GB of memory"
        yield (
            f"{recipe}: {path.stat().st_size / 1e9:.1f} GB{limit}: {anonymous:.0f} MB resident at most, and "
            f"{of_files:.0f} MB of mapped files; in memory "
            f"{memory[0]['RssAnon']:.0f} MB; whole runs {mapped[0]['seconds']:.0f} s"
        )
    del os.environ["IMPRINT_CACHE"]


ROWS = {name.removeprefix("row_"): row for name, row in list(globals().items()) if name.startswith("row_")}
NEEDS = {"accuracy": "digits", "decoded": "photos", "mapped": "gigabytes", "million": "images"}


def main():
    if sys.argv[1:2] == ["--worker"]:
        globals()[f"worker_{sys.argv[2]}"](*sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="all if none is named")
    parser.add_argument("--digits", help="Kaggle's train.csv")
    parser.add_argument("--photos", help="photos in class folders")
    parser.add_argument("--gigabytes", type=float, help="of disk that the row mapped may take, such as 20")
    parser.add_argument("--images", type=int, help="of the row million, such as 1000000")
    given = parser.parse_args()
    for name in ("digits", "photos"):
        if getattr(given, name) and not Path(getattr(given, name)).exists():
            setattr(given, name, None)
    for name in given.rows or ROWS:
        if NEEDS.get(name) and not getattr(given, NEEDS[name]):
            print(f"{name}: not run, needs --{NEEDS[name]}", flush=True)
            continue
        folder = Path(tempfile.mkdtemp(prefix=f"imprint-scale-{name}-"))
        try:
            for line in ROWS[name](folder, given):
                print(f"{name}: {line}", flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
