"""Run docs/lesson.md block by block, write under each block what it prints, and draw the page's images.

    make lesson

The page itself is the program: its python and sh blocks run in order in an empty folder, and the text block that
follows a block holds what it prints. Training does not give the same bits on every processor, so numbers that depend on
it stand in a block marked `text about`, or behind the word "about".
"""

import io
import re
import shlex
import sys
import tempfile
from contextlib import chdir, redirect_stdout
from pathlib import Path

from lesson_images import draw_images
from lesson_measured import with_tables

from imprint.cli.app import app

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "lesson.md"
IMAGES = ROOT / "docs" / "images" / "lesson"
BLOCK = re.compile(
    r"^```(?P<language>python|sh)\n(?P<code>.*?)^```\n(?:\n```text(?P<about> about)?\n(?P<printed>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


def follow(page, folder):
    """Run a page's blocks; give their variables, and for each block its match and what it printed."""
    names, printed = {}, []
    with chdir(folder):
        for block in BLOCK.finditer(page):
            out = io.StringIO()
            with redirect_stdout(out):
                if block["language"] == "sh":
                    for line in block["code"].splitlines():
                        app(shlex.split(line, comments=True)[1:], standalone_mode=False)
                else:
                    exec(block["code"], names)
            printed.append((block, out.getvalue()))
    return names, printed


def rewritten(page, printed):
    """Replace the text blocks by what was printed."""
    for block, out in reversed(printed):
        if block["printed"] is not None:
            page = page[: block.start("printed")] + out + page[block.end("printed") :]
    return page


def main():
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        names, printed = follow(page, folder)
        PAGE.write_text(with_tables(rewritten(page, printed)), encoding="utf-8")
        draw_images(names, Path(folder), IMAGES)
    for path in sorted(IMAGES.glob("*.png")):
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
