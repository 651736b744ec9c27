"""Take the pictures of docs/page.md: python scripts/page_images.py MODEL.onnx FOLDER_OF_DIGITS."""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from page_helpers import DRAW, ROUND, arc, opened_browser, served

SMILE = [arc(0.5, 0.5, 0.38, 0.38, 0, 360), arc(0.5, 0.52, 0.2, 0.2, 20, 160)]
SMILE += [arc(x, 0.38, 0.02, 0.02, 0, 360) for x in (0.38, 0.62)]


def keep(page, name):
    """Write what the browser shows as a small PNG of 128 colours."""
    page.wait("!document.querySelector('.result[aria-busy=true]')")
    shown = Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")
    path = ROOT / "docs" / "images" / f"{name}.png"
    shown.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main():
    """Open the page and go through what docs/page.md shows."""
    model, digits = sys.argv[1:]
    files = "\n".join(str(path.resolve()) for path in sorted(Path(digits).iterdir()))
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(model).resolve(), "--project", "project", cwd=Path(folder)) as address,
        opened_browser("--hide-scrollbars") as page,
    ):
        page.show(1200, 840)
        page.open(address)
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
        page.find("input[type=file]").send_keys(files)
        page.find("table")
        page.wait("document.querySelector('tbody img').complete")
        keep(page, "page-table")


if __name__ == "__main__":
    main()
