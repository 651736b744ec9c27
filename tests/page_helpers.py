"""A served page in a real browser, for the tests of the page."""

import contextlib
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from urllib.parse import urlsplit

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver: scripts/install-browser installs them on Debian"
)
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--use-fake-ui-for-media-stream",
)


@contextlib.contextmanager
def served(*arguments, cwd):
    """`imprint serve`, until the block ends; gives the address that it printed, which lets a browser in once."""
    command = [sys.executable, "-m", "imprint", "serve", *map(str, arguments), "--port", "0", "--no-browser"]
    with open(cwd / "serve.log", "w") as log:
        process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=subprocess.STDOUT, env=os.environ)
    try:
        for _ in range(600):
            found = re.search(r"https?://\S+", (cwd / "serve.log").read_text())
            if found or process.poll() is not None:
                break
            time.sleep(0.05)
        assert found, (cwd / "serve.log").read_text()
        yield found[0]
    finally:
        process.terminate()
        process.wait(20)


class Page:
    """A browser at a page: finds, waits, and knows what the page did wrong."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, address):
        self.driver.get("about:blank")
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self.driver.get(address)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def find(self, selector):
        self.wait(f"document.querySelector({selector!r})")
        return self.driver.find_element("css selector", selector)

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0])?.textContent ?? null", selector)

    def press(self, text):
        """Press the visible button, link or choice with this text."""
        script = """return [...document.querySelectorAll("button, a, label, input[type=radio]")].findLast(
          each => (each.textContent.trim() === arguments[0] || each.ariaLabel === arguments[0]) && each.offsetParent)"""
        self.wait(script.removeprefix("return "), text)
        self.run(script, text).click()

    def wait(self, condition, *arguments, seconds=10):
        end = time.monotonic() + seconds
        while not self.run(f"return Boolean({condition})", *arguments):
            assert time.monotonic() < end, f"{condition} {arguments}: {self.text('main')}"
            time.sleep(0.03)

    def show(self, width, height=900, scheme="light"):
        """Take a size and a colour scheme, without motion."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        media = {"features": [{"name": name, "value": value} for name, value in features.items()]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def complaints(self):
        """What the console said since the page was opened, and each request that left the server's address."""
        home = urlsplit(self.driver.current_url).netloc
        events = [json.loads(line["message"])["message"] for line in self.driver.get_log("performance")]
        asked = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        abroad = [
            url for url in asked if urlsplit(url).scheme not in ("blob", "about") and urlsplit(url).netloc != home
        ]
        return [line["message"] for line in self.driver.get_log("browser")] + abroad

    def barriers(self):
        """What axe finds, what is smaller than 44 pixels, and whether the page is wider than the screen."""
        from axe_core_python.selenium import Axe

        found = [(each["id"], each["nodes"][0]["html"]) for each in Axe().run(self.driver)["violations"]]
        return found + self.run(SMALL)


SMALL = """
const wide = document.documentElement.scrollWidth - innerWidth;
const targets = [...document.querySelectorAll("button, a, select, label:has(input), summary")];
const small = targets.filter(each => each.offsetParent && !each.matches(".skip")
  && (each.offsetWidth < 44 || each.offsetHeight < 44));
return [...(wide > 0 ? [`${wide} pixels too wide`] : []), ...small.map(each => `small: ${each.outerHTML}`)];
"""


@contextlib.contextmanager
def opened_browser(*options):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    settings = webdriver.ChromeOptions()
    settings.binary_location = CHROMIUM
    settings.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        downloads = {"download.default_directory": profile, "download.prompt_for_download": False}
        settings.add_experimental_option("prefs", downloads)
        for option in (*OPTIONS, *options, f"--user-data-dir={profile}"):
            settings.add_argument(option)
        driver = webdriver.Chrome(options=settings, service=Service(DRIVER))
        try:
            yield Page(driver)
        finally:
            driver.quit()


def arc(x, y, across, down, start, end):
    """Points on an ellipse, degrees clockwise from the right."""
    angles = [math.radians(start + (end - start) * i / 24) for i in range(25)]
    return [[x + across * math.cos(angle), y + down * math.sin(angle)] for angle in angles]


def line(*corners):
    """Points along straight lines."""
    pairs = itertools.pairwise(corners)
    return [[x + (u - x) * i / 8, y + (v - y) * i / 8] for (x, y), (u, v) in pairs for i in range(8)] + [[*corners[-1]]]


EDGES = (0.1, 0.3, 0.5, 0.7, 0.9)
GRID = [line((x, 0.1), (x, 0.9)) for x in EDGES] + [line((0.1, y), (0.9, y)) for y in EDGES]  # no digit at all
ROUND = {  # strokes of digits in a square from 0 to 1, as in a schoolbook
    "0": [arc(0.5, 0.5, 0.2, 0.3, -90, 270)],
    "1": [line((0.38, 0.32), (0.52, 0.2), (0.52, 0.8))],
    "2": [arc(0.5, 0.37, 0.18, 0.17, -170, 30) + line((0.655, 0.455), (0.32, 0.8), (0.7, 0.8))],
    "3": [arc(0.48, 0.35, 0.17, 0.15, -160, 90) + arc(0.48, 0.65, 0.2, 0.15, -90, 150)],
    "4": [line((0.55, 0.2), (0.3, 0.58), (0.74, 0.58)), line((0.6, 0.4), (0.6, 0.82))],
    "5": [line((0.68, 0.2), (0.38, 0.2), (0.36, 0.47)) + arc(0.48, 0.62, 0.2, 0.18, -130, 150)],
    "6": [arc(0.62, 0.52, 0.3, 0.34, -95, -180) + arc(0.5, 0.62, 0.18, 0.18, -180, 180)],
    "7": [line((0.3, 0.22), (0.7, 0.22), (0.45, 0.8))],
    "8": [arc(0.5, 0.35, 0.15, 0.15, 90, -270) + arc(0.5, 0.66, 0.19, 0.16, -90, 270)],
    "9": [arc(0.48, 0.38, 0.17, 0.18, 0, -360) + line((0.65, 0.38), (0.62, 0.8))],
}
PLAIN = {  # without a curve, the 7 with a bar
    "0": [
        line(
            (0.4, 0.2),
            (0.6, 0.2),
            (0.7, 0.35),
            (0.7, 0.65),
            (0.6, 0.8),
            (0.4, 0.8),
            (0.3, 0.65),
            (0.3, 0.35),
            (0.4, 0.2),
        )
    ],
    "1": [line((0.5, 0.2), (0.5, 0.8))],
    "2": [line((0.32, 0.35), (0.4, 0.22), (0.58, 0.2), (0.68, 0.32), (0.62, 0.48), (0.3, 0.8), (0.72, 0.8))],
    "3": [line((0.32, 0.24), (0.66, 0.22), (0.46, 0.46), (0.64, 0.54), (0.66, 0.7), (0.52, 0.81), (0.32, 0.76))],
    "4": [line((0.36, 0.2), (0.33, 0.52), (0.7, 0.52)), line((0.66, 0.2), (0.64, 0.82))],
    "5": [
        line(
            (0.66, 0.2),
            (0.38, 0.22),
            (0.35, 0.47),
            (0.55, 0.45),
            (0.67, 0.56),
            (0.64, 0.73),
            (0.48, 0.81),
            (0.32, 0.75),
        )
    ],
    "6": [
        line(
            (0.6, 0.2),
            (0.42, 0.36),
            (0.33, 0.6),
            (0.38, 0.76),
            (0.54, 0.82),
            (0.66, 0.72),
            (0.63, 0.57),
            (0.48, 0.53),
            (0.35, 0.63),
        )
    ],
    "7": [line((0.3, 0.22), (0.7, 0.22), (0.45, 0.8)), line((0.38, 0.52), (0.66, 0.52))],
    "8": [
        line(
            (0.64, 0.28),
            (0.5, 0.2),
            (0.37, 0.3),
            (0.42, 0.43),
            (0.6, 0.56),
            (0.66, 0.7),
            (0.5, 0.81),
            (0.35, 0.7),
            (0.42, 0.56),
            (0.6, 0.43),
            (0.64, 0.28),
        )
    ],
    "9": [
        line(
            (0.64, 0.3),
            (0.5, 0.21),
            (0.36, 0.3),
            (0.38, 0.46),
            (0.52, 0.51),
            (0.64, 0.4),
            (0.64, 0.28),
            (0.62, 0.6),
            (0.5, 0.82),
        )
    ],
}


def placed(strokes, slant=0.0, scale=1.0, right=0.0, down=0.0):
    """Slanted, scaled and moved strokes."""
    return [
        [[0.5 + (x + (0.5 - y) * slant - 0.5) * scale + right, 0.5 + (y - 0.5) * scale + down] for x, y in points]
        for points in strokes
    ]


SLANTED = {name: placed(PLAIN[name] if name in "147" else ROUND[name], slant=0.22) for name in ROUND}

DRAW = """
const canvas = document.querySelector(arguments[1] ?? "canvas.pad"), box = canvas.getBoundingClientRect();
canvas.setPointerCapture = () => {}; // of a pointer that is no real one
const send = (type, [x, y]) => canvas.dispatchEvent(new PointerEvent(type, {pointerId: 1, isPrimary: true,
  bubbles: true, clientX: box.left + x * box.width, clientY: box.top + y * box.height}));
for (const points of arguments[0]) {
  send("pointerdown", points[0]);
  points.slice(1).forEach(point => send("pointermove", point));
  send("pointerup", points.at(-1));
}
"""
