"""Feeds damaged files to the readers: only an ImprintError may come out of any of them.

python scripts/fuzz.py [TARGET…] [--cases N] [--first N] [--seed N] [--engine atheris|mutation]

Targets are image, model, checkpoint, onnx, csv, idx, cifar, mat, text (pixels in the cells of a CSV), tar, tgz, zip and
format (naming what is not read). Where atheris is installed it looks for new paths through the
code; elsewhere real files are damaged at random, by a seed; `--first` goes on from a later case of it.
"""

import argparse
import gzip
import hashlib
import importlib.util
import io
import os
import random
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

TARGETS = ("image", "model", "checkpoint", "onnx", "csv", "idx", "cifar", "mat", "text", "tar", "tgz", "zip", "format")
SIGNED = ("model", "checkpoint", "onnx")  # hold a digest of themselves
FOLDER = Path(tempfile.gettempdir())  # each target's own


def images():
    """A small image in every format that is read."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3)).astype(np.uint8)
    made = []
    for kind, mode in (("PNG", "RGB"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("GIF", "P"),
                       ("WEBP", "RGB"), ("BMP", "RGB"), ("TIFF", "RGB"), ("TIFF", "L"), ("PPM", "RGB"),
                       ("AVIF", "RGB")):  # fmt: skip
        file = io.BytesIO()
        image = Image.fromarray(pixels)
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
        image.save(file, kind)
        made.append(file.getvalue())
    if importlib.util.find_spec("pillow_heif"):
        from pillow_heif import from_pillow

        file = io.BytesIO()
        from_pillow(Image.fromarray(pixels)).save(file)
        made.append(file.getvalue())
    made.append(b"P2 2 2 4095\n0 1024 2048 4095\n")
    return made


def matlab():
    """MATLAB files, packed and not."""
    from scipy.io import savemat

    made = []
    for packed in (True, False):
        file = io.BytesIO()
        images = np.arange(48).reshape(4, 4, 3).astype(np.uint8)
        savemat(file, {"X": images, "y": np.arange(3.0)[:, None], "note": "words"}, do_compression=packed)
        made.append(file.getvalue())
    return made


def archives(kind):
    """Class folders and a data set of several files, in a .zip, a .tar or a packed .tar."""
    image = images()[0]
    members = ({"pets/cat/1.png": image, "pets/dog/2.png": image, "pets/notes.txt": b"words"},
               {"data_batch_1.bin": bytes(3073), "batches.meta.txt": b"cat\n"})  # fmt: skip
    made = []
    for files in members:
        file = io.BytesIO()
        if kind == "zip":
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in files.items():
                    archive.writestr(name, content)
        else:
            # With names that are too long for a header too, in both ways of writing them.
            form = tarfile.GNU_FORMAT if len(made) else tarfile.PAX_FORMAT
            with tarfile.open(fileobj=file, mode="w:gz" if kind == "tgz" else "w", format=form) as archive:
                for name, content in {**files, f"notes/{'x' * 120}.txt": b"words"}.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        made.append(file.getvalue())
    return made


def models():
    """A model file, a checkpoint and an .onnx file of a network so small that digests cost little; and its plan."""
    import torch

    from imprint import export, load, train
    from imprint.training.checkpoint import Checkpoint, start_network
    from imprint.training.plan import make_plan

    digits = load("digits")[:100]
    wide = np.pad(digits.pixels, ((0, 0), (0, 0), (1, 1), (1, 1)))  # 10×10, the least that the lesson's network takes
    few = replace(digits, pixels=wide, labels=digits.labels % 2, class_names=("even", "odd"))
    plan = make_plan(few, "tutorial", epochs=2, steps_per_epoch=1, device="cpu")
    with tempfile.TemporaryDirectory() as name:
        model = train(few, plan.recipe, device="cpu", verbose=False).model
        with torch.random.fork_rng():
            Checkpoint(Path(name), plan, {"data": "digits"}).write(start_network(plan))
        model = replace(model, ood_score=replace(model.ood_score, whitening=model.ood_score.whitening[:1]))
        model.save(Path(name) / "model.safetensors")
        export(model, Path(name) / "model.onnx")
        torch.manual_seed(0)
        files = ("model.safetensors", "checkpoint.safetensors", "model.onnx")
        return plan, *((Path(name) / file).read_bytes() for file in files)


def signed(content, whole):
    """Write the right digest, and length of header, into a damaged file, so that the parser behind them is reached."""
    from imprint.models.onnx.file import SEAL_LENGTH, seal

    if whole.endswith(seal(whole[:-SEAL_LENGTH])):
        unsigned = content[:-SEAL_LENGTH]
        return unsigned + seal(unsigned)
    length = int.from_bytes(whole[:8], "little") + len(content) - len(whole)
    content = max(0, length).to_bytes(8, "little") + content[8:]
    found = re.search(rb'\\"sha256\\": \\"([^\\]{64})\\"', content[:400])
    if found is None:
        return content
    unsigned = content[: found.start(1)] + b"0" * 64 + content[found.end(1) :]
    digest = hashlib.sha256(unsigned).hexdigest().encode()
    return unsigned[: found.start(1)] + digest + unsigned[found.start(1) + 64 :]


def target(name):
    """Give the files to damage, and the function that must take or refuse any bytes."""
    from imprint import Classifier, ImprintError, OnnxClassifier
    from imprint.data.decoding.decode import decode
    from imprint.data.decoding.formats import name_format
    from imprint.data.load import load, parts
    from imprint.data.readers.cifar import read_cifar
    from imprint.data.readers.csv import read_csv
    from imprint.data.readers.idx import read_idx
    from imprint.data.readers.mat import read_mat
    from imprint.data.readers.pixel_text import pixel_text_parts, read_pixel_text
    from imprint.training.checkpoint import read_resumable_run

    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    paths = {kind: folder / file for kind, file in (
        ("model", "m.safetensors"), ("checkpoint", "checkpoint.safetensors"), ("onnx", "m.onnx"), ("csv", "t.csv"),
        ("idx", "t-idx3-ubyte"), ("cifar", "data_batch_1.bin"), ("mat", "t.mat"), ("text", "t.csv"), ("tar", "t.tar"),
        ("tgz", "t.tgz"), ("zip", "t.zip"),
    )}  # fmt: skip
    plan, model, checkpoint, onnx = models() if name in SIGNED else (None, b"", b"", b"")

    def reads(content):
        if name == "image":
            decode(content)
            return
        if name == "format":
            name_format(content)
            return
        paths[name].write_bytes(content)
        if name == "model":
            Classifier.load(paths[name], device="cpu")
        elif name == "onnx":
            OnnxClassifier.load(paths[name])
        elif name == "checkpoint":
            stopped = read_resumable_run(folder)
            stopped.check(plan)
            stopped.restore(plan)
        elif name == "text":
            read_pixel_text(paths[name])
            pixel_text_parts(paths[name])
        elif name in ("tar", "tgz", "zip"):
            load(paths[name], allow_bad=1)
            parts(paths[name])
        elif name == "cifar":
            read_cifar([paths[name]], name)
        else:
            {"csv": read_csv, "idx": read_idx, "mat": read_mat}[name](paths[name])

    def one(content):
        """Read once as it is and, where it holds a digest, once with the right one; tell how often it was taken."""
        taken, lines = 0, []
        for version in (content, signed(content, corpus[0])) if name in SIGNED else (content,):
            try:
                reads(version)
                taken += 1
            except ImprintError as refusal:
                lines.append(str(refusal).count("\n"))
        assert not any(lines), "a refusal has one line"
        return taken

    csvs = [b"label,pixel0,pixel1,pixel2,pixel3\n1,0,9,200,255\n2,4,5,6,7\n", b"pixel0;pixel1;pixel2;pixel3\n1;2;3;4\n"]
    idxs = [bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2, *range(8)])]
    row = b" ".join(b"%d" % k for k in range(16))
    texts = [b"emotion,pixels,Usage\n" + b"".join(b"1,%s,%s\n" % (row, part) for part in (b"Training", b"PublicTest"))]
    labelled = [bytes([1, *[7] * 3072]) * 2, bytes([19, 99, *[7] * 3072])]
    formats = [bytes(128) + b"DICM", b"PK\3\4" + bytes(22) + b"\x10\0\0\0archive/data.pkl", b"\x80\2}q\0.",
               b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", gzip.compress(bytes(344) + b"n+1"), b"<?xml?><svg/>"]  # fmt: skip
    corpus = {"image": images, "model": lambda: [model], "checkpoint": lambda: [checkpoint],
              "onnx": lambda: [onnx], "csv": lambda: csvs, "idx": lambda: idxs, "mat": matlab,
              "cifar": lambda: labelled, "text": lambda: texts, "format": lambda: formats,
              **{kind: partial(archives, kind) for kind in ("tar", "tgz", "zip")}}[name]()  # fmt: skip
    return corpus, one


SPICES = [b"\0" * 8, b"\xff" * 8, b"-1", b"NaN", b"1e999", b"[" * 50, b'"', b"{", b"9" * 30, b"\r\n", b"\x80", b","]


def damaged(content, generator):
    """Change a file in one to five places; most often near its start, where headers are."""
    content = bytearray(content)
    for _ in range(generator.randint(1, 5)):
        reach = max(1, min(len(content), generator.choice([32, 400, 4000, len(content)])))
        place = generator.randrange(reach)
        kind = generator.randrange(6)
        if kind == 0 and content:
            content[place % len(content)] ^= 1 << generator.randrange(8)
        elif kind == 1 and content:
            content[place % len(content)] = generator.randrange(256)
        elif kind == 2:
            del content[place : place + generator.choice([1, 2, 9, 100])]
        elif kind == 3:
            spice = generator.choice(SPICES)
            content[place : place + len(spice) * generator.randrange(2)] = spice
        elif kind == 4:
            end = place + generator.randrange(1, 60)
            content[place:place] = content[place:end]
        else:
            text = bytes(content)
            numbers = list(re.finditer(rb"\d+", text[:reach]))
            if numbers:
                chosen = generator.choice(numbers)
                content[chosen.start() : chosen.end()] = generator.choice([b"0", b"-1", b"99999999", b"1e400", b"3.5"])
    return bytes(content)


def by_mutation(name, first, cases, seed):
    corpus, one = target(name)
    taken, slowest = 0, 0.0
    assert all(one(content) for content in corpus), "a whole file must be taken"
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    for case in range(first, first + cases):
        generator = random.Random(f"{seed} {case}")  # any case can be had again, alone
        content = damaged(generator.choice(corpus), generator)
        begun = time.perf_counter()
        try:
            taken += bool(one(content))
        except BaseException:
            (Path.cwd() / f"crash-{name}").write_bytes(content)
            print(f"{name}, case {case} of seed {seed}: written to crash-{name}", flush=True)
            raise
        slowest = max(slowest, time.perf_counter() - begun)
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    seconds = time.perf_counter() - started
    print(f"{name}: {cases:,} damaged files, {taken:,} taken, the others refused", flush=True)
    print(f"    {seconds:.0f} s, the slowest {slowest:.2f} s; {more:.0f} MB more memory than before", flush=True)


def by_atheris(name, cases, seed):
    import atheris

    with atheris.instrument_imports(include=["imprint", "PIL"]):
        corpus, one = target(name)
    seeds = FOLDER / f"{name}-corpus"
    seeds.mkdir()
    for place, content in enumerate(corpus):
        (seeds / str(place)).write_bytes(content)
    longest = max(4096, 2 * max(map(len, corpus)))
    options = [f"-runs={cases}", f"-seed={seed}", f"-max_len={longest}", "-print_final_stats=1", "-timeout=20"]

    def changed(content, longest, chance):
        return damaged(content, random.Random(chance))[:longest]

    # Chance finds no way into a file that begins with its own digest: our own damages are of names and numbers.
    mutator = {"custom_mutator": changed} if name in SIGNED else {}
    command = [sys.argv[0], *options, f"-artifact_prefix=crash-{name}-", str(seeds)]
    atheris.Setup(command, lambda content: one(content) and None, **mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=TARGETS, help=", ".join(TARGETS))
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="of the cases, where files are damaged by a seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("atheris", "mutation"))
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    engine = chosen.engine or ("atheris" if importlib.util.find_spec("atheris") else "mutation")
    for name in chosen.targets:
        if chosen.alone:
            by_atheris(name, chosen.cases, chosen.seed)
            continue
        with tempfile.TemporaryDirectory(prefix="imprint-fuzz-") as scratch:
            if engine == "mutation":
                FOLDER = Path(scratch)
                by_mutation(name, chosen.first, chosen.cases, chosen.seed)
                continue
            started = time.perf_counter()
            command = [
                sys.executable,
                __file__,
                name,
                "--cases",
                str(chosen.cases),
                "--seed",
                str(chosen.seed),
                "--alone",
            ]
            # Atheris ends its process, and tells every path it finds on stderr.
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": scratch})
            if done.returncode:
                sys.exit(f"{done.stderr[-3000:]}\n{name}: status {done.returncode}")
            seconds = time.perf_counter() - started
            print(f"{name}: {chosen.cases:,} files by atheris, each taken or refused; {seconds:.0f} s", flush=True)
