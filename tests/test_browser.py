"""The pages in a real browser, opened from disk: nothing broken, nothing too wide, on a phone and on a wide screen."""

import csv
import dataclasses
import shutil
import tempfile
import time

import numpy as np
import pytest

from helpers import BAD_NAME, random_images, write_short_run
from imprint import LabelledImages, load
from imprint.analysis.doctor import check
from imprint.core.scores import label_predictions
from imprint.data.readers.corrections import read_corrections
from imprint.report.doctor_page import write_page
from imprint.report.mistakes_page import save_mistakes
from imprint.report.run_report import write_report

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver: scripts/install-browser installs them on Debian"
)
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
)


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        yield driver
        driver.quit()


def wide_photos():
    """Colour photos three times as wide as high, in 40 classes with names too long for a line."""
    pixels = np.random.default_rng(0).integers(0, 256, (400, 3, 30, 90), dtype=np.uint8)
    names = tuple(f"<script>alert({i})</script> an_unbroken_name_without_end_{i}" for i in range(40))
    return LabelledImages(pixels, np.arange(400) % 40, names, np.arange(400).astype(str), "photos")


def saved(images, folder):
    """Write images to a file and read them from there, so that a report can read them again."""
    folder.mkdir()
    names = np.array(images.class_names)[images.labels]
    np.savez(folder / "x.npz", images=images.pixels.transpose(0, 2, 3, 1), labels=names)
    return load(folder / "x.npz")


@pytest.fixture(scope="module")
def pages(run_folder, digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    write_report(run_folder, folder / "report.html")
    photos = saved(wide_photos(), folder / "wide")
    write_short_run(photos, folder / "wide", 0.3, epochs=300)
    write_report(folder / "wide", folder / "wide.html")
    write_short_run(random_images(2, 40), folder / "gone", 0.5)
    (folder / "gone" / "validation.csv").unlink()
    write_report(folder / "gone", folder / "reduced.html")
    doubled = dataclasses.replace(photos, pixels=photos.pixels[np.arange(400) // 2])
    write_page(check(doubled, labels=False, verbose=False), [doubled], folder / "findings.html")
    return folder


@pytest.mark.parametrize("page", ["report", "wide", "reduced", "findings"])
def test_a_page_on_a_phone_and_a_wide_screen(browser, pages, page):
    for scheme, ground in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 24, 29)")):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        for width in (360, 1280):
            size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get((pages / f"{page}.html").as_uri())
            assert not browser.get_log("browser")
            assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == ground
            widest = browser.execute_script(WIDEST)
            assert widest[0] <= width, widest
            assert browser.execute_async_script(BROKEN) == 0
    assert bool(browser.execute_script("return document.images.length")) == (page != "reduced")
    assert browser.execute_script("return document.scripts.length") == 0


@pytest.mark.parametrize("page", ["report", "wide", "reduced", "findings"])
def test_a_page_on_paper(browser, pages, page):
    paper = 718  # CSS pixels between the margins of A4
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    size = {"width": paper, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get((pages / f"{page}.html").as_uri())
    edges = "return [...document.body.querySelectorAll('*')].map(e => e.getBoundingClientRect().right)"
    assert max(browser.execute_script(edges)) <= paper
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


# How many images cannot be decoded, those that wait until they are unfolded too.
BROKEN = """
const images = [...document.images];
for (const image of images) image.loading = "eager";
const decoded = Promise.allSettled(images.map(image => image.decode()));
decoded.then(ends => arguments[0](ends.filter(end => end.status === "rejected").length));
"""

# The right edge of the page, and the element that reaches farthest right of all that do not scroll by themselves.
WIDEST = """
const outside = [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, pre, svg"));
const edge = e => e.getBoundingClientRect().right;
const far = outside.reduce((a, b) => edge(b) > edge(a) ? b : a);
return [Math.max(document.documentElement.scrollWidth, edge(far)), far.outerHTML.slice(0, 200)];
"""


def test_the_keyboard_reaches_links_and_wide_tables(browser, pages):
    from selenium.webdriver.common.by import By

    browser.get((pages / "report.html").as_uri())
    for link in browser.find_elements(By.CSS_SELECTOR, "nav a"):
        target = link.get_attribute("href").split("#")[1]
        assert browser.find_elements(By.ID, target)
    wide = browser.find_elements(By.CSS_SELECTOR, ".scroll, pre")
    assert wide
    assert all(one.get_attribute("tabindex") == "0" for one in wide)
    assert not browser.find_elements(By.CSS_SELECTOR, "[title]")  # which a mouse alone would find
    for heads in browser.find_elements(By.CSS_SELECTOR, "thead tr"):
        cells = heads.find_elements(By.CSS_SELECTOR, "th")
        assert all(cell.get_attribute("scope") == "col" for cell in cells)


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    """A page of forty mistakes among images whose class and file names are hostile."""
    images, path = random_images(12, 60), tmp_path_factory.mktemp("mistakes") / "m.html"
    said = np.roll(np.eye(12, dtype=np.float32)[images.labels], 1, axis=1)
    said[40:] = np.eye(12, dtype=np.float32)[images.labels[40:]]
    labelled = label_predictions(said, images.labels, images.class_names, np.full(60, ""), images.sources)
    save_mistakes(labelled, images, {3: "ambiguous"}, "photos", path)
    return path


def test_labels_are_corrected_by_keys_and_saved_as_a_list(browser, mistakes, tmp_path):
    from selenium.webdriver import ActionChains, Keys

    def press(*keys, control=False):
        chain = ActionChains(browser)
        chain = chain.key_down(Keys.CONTROL) if control else chain
        for key in keys:
            chain.send_keys(key)
        (chain.key_up(Keys.CONTROL) if control else chain).perform()

    def focused():
        return browser.execute_script(
            "return [...document.querySelectorAll('#cards > li')].indexOf(document.activeElement)"
        )

    for width in (360, 1280):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(mistakes.as_uri())
        widest = browser.execute_script(WIDEST)
        assert widest[0] <= width, widest
    download = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", download)
    assert focused() == 0
    outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineWidth")
    assert outline == "4px"
    press(Keys.ENTER, "5", " ", Keys.DELETE, "6", Keys.ARROW_LEFT, Keys.BACKSPACE, Keys.ARROW_RIGHT)
    assert focused() == 5
    press(Keys.ARROW_DOWN)
    below = focused()
    assert below > 6
    press(Keys.ARROW_UP)
    assert focused() == 5
    press(Keys.TAB)
    press("a", control=True)
    press("no such class", Keys.ENTER)
    assert "no class is called" in browser.find_element("id", "said").text
    press("a", control=True)
    press(f"{BAD_NAME} 011", Keys.ENTER)
    assert focused() == 6
    assert browser.find_element("id", "count").text == "3 changed, 1 left out"
    press("s", control=True)
    for _ in range(100):
        if (tmp_path / "m.csv").exists():
            break
        time.sleep(0.1)
    with open(tmp_path / "m.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["source", "label", "prediction", "confidence", "unsure", "cause", "given"]
    assert len(rows) == 40
    labels = [row[1] for row in rows]
    names = [f"{BAD_NAME} {number:03}" for number in range(12)]
    assert labels[:6] == [rows[0][2], names[4], rows[2][6], "", rows[4][6], names[11]]
    assert labels[6:] == [row[6] for row in rows[6:]]
    assert not browser.get_log("browser")
    assert [one.label for one in read_corrections(tmp_path / "m.csv")] == labels
