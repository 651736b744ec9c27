"""Bulk prediction: unit costs by which docs/scale.md reckons, and that memory does not grow with the data.

    python benchmarks/bulk.py PHOTOS train.csv.gz [--ray PYTHON] [--copies 4]

PHOTOS are class folders. Trains a `probe` model of them and a `quick` one of digits for one epoch, exports the former,
and predicts: the photos once and several times over, 20,000 digits as PNG files, as a .tar and as Parquet.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import polars
from common import machine
from PIL import Image

import imprint

IMPRINT = [sys.executable, "-m", "imprint"]


def run(*command, python=sys.executable):
    """Run a command; gives its seconds, CPU seconds and MB at most."""
    code = (
        "import os,sys,resource,subprocess,time;t=time.perf_counter();"
        "subprocess.run(sys.argv[1:],check=True,stderr=subprocess.DEVNULL,stdout=subprocess.DEVNULL);"
        "u=resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(time.perf_counter()-t,u.ru_utime+u.ru_stime,u.ru_maxrss/1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, check=True)
    return tuple(float(word) for word in done.stdout.split())


def predicted(model, data, out, *more, python=sys.executable):
    seconds, cpu, memory = run(python, "-m", "imprint", "predict", model, data, "-o", f"{out}/", *more)
    summary = json.loads((out / "summary.json").read_text())
    files = list(out.glob("*.parquet"))
    size = sum(file.stat().st_size for file in files)
    count = summary["inputs"]
    print(
        f"{data.name} {more or ''}: {count:,} images in {seconds:.1f} s, {count / seconds:.0f}/s, "
        f"{1000 * cpu / count:.2f} ms of CPU an image, {memory:.0f} MB, {len(files)} files, "
        f"{size / count:.1f} bytes a row",
        flush=True,
    )
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("digits", type=Path)
    parser.add_argument("--ray", help="python of an environment that has Ray as well")
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--images", type=int, default=20_000)
    arguments = parser.parse_args()
    print(machine())
    folder = Path(tempfile.mkdtemp(prefix="imprint-bulk-"))
    os.environ["IMPRINT_CACHE"] = str(folder / "cache")

    run(*IMPRINT, "train", arguments.photos, "--recipe", "probe", "--run", folder / "photos")
    run(*IMPRINT, "export", folder / "photos", "-o", folder / "photos.onnx")
    digits = imprint.load(arguments.digits)
    imprint.train(digits[:5000], "quick", epochs=1, min_steps=1, verbose=False).model.save(
        folder / "digits.safetensors"
    )

    photo = sorted(arguments.photos.rglob("*.jpg"))[0]
    for one in (folder / "photos", folder / "photos.onnx"):
        seconds = run(*IMPRINT, "predict", one, photo, "-o", folder / "result.csv")[0]
        print(f"start and one photo, {one.name}: {seconds:.2f} s")
    many = folder / "many"
    for copy in range(arguments.copies):
        shutil.copytree(arguments.photos, many / f"{copy}")
    predicted(folder / "photos.onnx", arguments.photos, folder / "a")
    predicted(folder / "photos", arguments.photos, folder / "b")
    alone = predicted(folder / "photos.onnx", many, folder / "c")
    predicted(folder / "photos.onnx", many, folder / "c")  # nothing left to do
    if arguments.ray:
        ray = predicted(folder / "photos.onnx", many, folder / "d", "--engine", "ray", python=arguments.ray)
        print(f"Ray: {alone / ray:.2f} of the rate of one process")

    pngs = folder / "pngs"
    pngs.mkdir()
    rows = []
    with tarfile.open(folder / "digits.tar", "w") as archive:
        for i in range(arguments.images):
            content = io.BytesIO()
            Image.fromarray(digits.pixels[i, 0]).save(content, "PNG")
            (pngs / f"{i:06}.png").write_bytes(content.getvalue())
            rows.append({"bytes": content.getvalue(), "path": f"{i:06}.png"})
            member = tarfile.TarInfo(f"{i:06}.png")
            member.size = len(content.getvalue())
            archive.addfile(member, io.BytesIO(content.getvalue()))
    polars.DataFrame({"image": rows}).write_parquet(folder / "digits.parquet", row_group_size=1000)
    for i, data in enumerate((pngs, folder / "digits.tar", folder / "digits.parquet")):
        predicted(folder / "digits.safetensors", data, folder / f"digits-{i}")

    decode(arguments.photos, "photos")
    decode(pngs, "digits")
    shutil.rmtree(folder)


def decode(data, what):
    """Time decoding alone, on one core."""
    code = (
        "import sys,time\nfrom imprint.data.shards import find_shards\n"
        "from imprint.data.decoding.decode import decode\n"
        "files=[f for s in find_shards(sys.argv[1]) for f in s.files][:400]\nt=time.process_time()\n"
        "for f in files: decode(f, shorter=2*224)\nprint((time.process_time()-t)/len(files)*1000)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(data)], capture_output=True, text=True, check=True)
    print(f"decoding {what}: {float(done.stdout):.2f} ms of CPU an image")


if __name__ == "__main__":
    main()
