"""Take the pictures of docs/page.md: python scripts/page_images.py [MODEL.onnx FOLDER_OF_DIGITS].

Those of Try need both arguments; those of Teach and Check are of faces drawn here.
"""

import io
import random
import sys
import tempfile
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from imprint.serve.project import Given, Project
from page_helpers import DRAW, ROUND, arc, opened_browser, served

SMILE = [arc(0.5, 0.5, 0.38, 0.38, 0, 360), arc(0.5, 0.52, 0.2, 0.2, 20, 160)]
SMILE += [arc(x, 0.38, 0.02, 0.02, 0, 360) for x in (0.38, 0.62)]


FACES, TAKES, A_TAKE = ("Happy", "Sad"), 8, 6
SWAPPED = 3  # sad faces of one take that were given as happy
INKS = ((30, 35, 60), (150, 30, 40), (20, 90, 70), (60, 40, 130))


def face(name, chance, size=(480, 360), grain=4):
    """Draw a happy or sad face with a marker on a sheet of paper that lies on a table."""
    wide, high = (grain * each for each in size)
    sheet = Image.new("RGB", (wide, high), chance["paper"])
    pen, ink, thick = ImageDraw.Draw(sheet), chance["ink"], grain * 9
    x, y = wide * (0.5 + chance["dx"]), high * (0.5 + chance["dy"])
    r = high * chance["radius"]

    def ring(cx, cy, across, down, start, end):
        box = (x + r * (cx - across), y + r * (cy - down), x + r * (cx + across), y + r * (cy + down))
        pen.arc(box, start, end, fill=ink, width=thick)

    ring(0, 0, 1, 1, 0, 360)
    for side in (-1, 1):
        eye = (x + r * (0.36 * side - 0.09), y - r * 0.38, x + r * (0.36 * side + 0.09), y - r * 0.12)
        pen.ellipse(eye, fill=ink)
    if name == "Happy":
        ring(0, 0.12, 0.52, 0.44, 15, 165)
    else:
        ring(0, 0.72, 0.5, 0.4, 200, 340)
    table = Image.new("RGB", sheet.size, chance["table"])
    lies = sheet.rotate(chance["tilt"], Image.Resampling.BICUBIC, expand=False)
    inside = Image.new("L", sheet.size)
    margin = wide // 12
    ImageDraw.Draw(inside).rectangle((margin, margin // 2, wide - margin, high - margin // 2), fill=255)
    table.paste(lies, mask=inside.rotate(chance["tilt"], Image.Resampling.BICUBIC))
    return table.resize(size, Image.Resampling.LANCZOS)


def chances(seed):
    """Give what a take has in common: paper, table, ink and place; each picture of it moves a little."""
    of_take = random.Random(seed)
    grey = of_take.randrange(228, 250)
    common = {"paper": (grey, grey, grey - 8), "ink": INKS[seed % len(INKS)]}
    common["table"] = tuple(of_take.randrange(low, low + 40) for low in (120, 90, 65))
    where, tilt, radius = of_take.uniform(-0.05, 0.05), of_take.uniform(-8, 8), of_take.uniform(0.3, 0.34)
    while True:
        near = {"dx": where + of_take.uniform(-0.06, 0.06), "dy": of_take.uniform(-0.06, 0.06)}
        turned = {"tilt": tilt + of_take.uniform(-12, 12), "radius": radius + of_take.uniform(-0.04, 0.04)}
        yield common | near | turned


def as_jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def taught(folder):
    """Make a project of faces, in which some have the wrong label, as happens."""
    project = Project(folder)
    for kind, name in enumerate(FACES):
        key = project.add_class(name)
        for number in range(TAKES):
            several = chances(10 * kind + number)
            drawn = [FACES[1 - kind if kind == number == 0 and i < SWAPPED else kind] for i in range(A_TAKE)]
            square = (60, 0, 420, 360)  # what the page takes of a camera's picture
            faces = [face(one, next(several)).crop(square) for one in drawn]
            pictures = [Given(f"{i}.jpg", as_jpeg(one)) for i, one in enumerate(faces)]
            project.add_samples(project.add_take(key, "camera"), pictures)
    project.close()


def train(page):
    """Train, and wait until the score is there."""
    page.press("Teach")
    page.find(".train").click()
    page.wait("document.querySelector('.model.busy')", seconds=30)
    page.wait("!document.querySelector('.model.busy')", seconds=240)


def keep(page, name):
    """Write what the browser shows as a small PNG of 256 colours."""
    page.wait("!document.querySelector('.result[aria-busy=true]')")
    page.wait("[...document.images].every(each => each.complete)")
    shown = Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")
    path = ROOT / "docs" / "images" / f"{name}.png"
    shown.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def show_try(page, digits):
    """Draw a digit, and a face that is none; then a table of many."""
    page.show(1200, 840)
    page.find("canvas.pad")
    page.run(DRAW, ROUND["3"])
    page.find(".answer")
    keep(page, "page-try")
    page.press("Clear")
    page.show(390, 780, "dark")
    page.run(DRAW, SMILE)
    page.find(".unsure")
    keep(page, "page-unsure")
    page.show(1200, 840)
    page.press("Pictures")
    page.find("input[type=file]").send_keys(digits)
    page.find("table")
    keep(page, "page-table")


def show_teach(page):
    """Train on faces, and show one to the camera."""
    page.show(1200, 940)
    train(page)
    page.find(".model .score")
    page.press("Start camera")
    page.wait("document.querySelector('.answer')?.textContent === 'Happy'", seconds=60)  # and is sure of it
    keep(page, "page-teach")
    page.press("Turn the camera off")


def show_check(page):
    """Show the score, and the faces about which model and label differ."""
    page.press("Check")
    page.find(".check-mistakes .cell[data-sha]")
    page.show(1200, 1040)
    keep(page, "page-check")


def main():
    """Open the page and go through what docs/page.md shows."""
    model, digits = sys.argv[1:] or ("", "")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film = folder / "film.mjpeg"
        film.write_bytes(b"".join(as_jpeg(face("Happy", one)) for one in islice(chances(1), 30)))
        camera = "--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={film}"
        taught(folder / "faces")
        with opened_browser("--hide-scrollbars", *camera) as page:
            if model:
                files = "\n".join(str(path.resolve()) for path in sorted(Path(digits).iterdir()))
                with served(Path(model).resolve(), "--project", "project", cwd=folder) as address:
                    page.open(address)
                    show_try(page, files)
            with served("--project", "faces", cwd=folder) as address:
                page.open(address)
                show_teach(page)
                show_check(page)


if __name__ == "__main__":
    main()
