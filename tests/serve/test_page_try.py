"""Try, and the shell of the page, in a real browser with a real server."""

import base64
import contextlib
import csv
import gzip
import io
import json
import re
import shutil
import subprocess
from importlib.resources import files
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from helpers import run_imprint
from imprint.models.onnx.exporting import export
from page_helpers import DRAW, GRID, PLAIN, ROUND, SLANTED, needs_browser, opened_browser, placed, served

pytestmark = needs_browser
STATIC = files("imprint.serve") / "static"
TWO_CAMERAS = "--use-fake-device-for-media-stream=device-count=2"


@pytest.fixture(scope="module")
def exported(model, digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "digits.onnx"
    export(model, path, digits[:50])
    return path


@pytest.fixture(scope="module")
def pictures(digits, tmp_path_factory):
    """Ten digits as files, one that is nothing of the kind, and one that is no image."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, pixels in enumerate(digits.pixels[:10]):
        Image.fromarray(pixels[0]).resize((64, 64)).save(folder / f"digit-{i}.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise, grey.png")
    return folder


@pytest.fixture(scope="module")
def page(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    with served(exported, "--project", folder / "project", cwd=folder) as address, opened_browser(TWO_CAMERAS) as page:
        page.show(1440)
        page.open(address)
        page.find("canvas.pad")
        page.home = re.match(r"https?://[^/]+/", page.driver.current_url)[0]
        yield page


@pytest.fixture(autouse=True)
def _begin(page):
    page.show(1440)
    page.open(f"{page.home}#try")
    page.find("h1")
    yield
    assert page.complaints() == []


def draw(page, strokes):
    page.run(DRAW, strokes)


def settled(page):
    """The answer, once nothing is being asked any more."""
    page.wait("!document.querySelector('.result[aria-busy=true]')")
    return page.text(".answer")


def choose(page, *paths):
    page.find("input[type=file]").send_keys("\n".join(map(str, paths)))


def test_nine_of_ten_digits_of_three_hands_are_read(page):
    for hand in (ROUND, PLAIN, SLANTED):
        for scale, right, down in ((1, 0, 0), (0.3, 0.25, -0.2)):
            answers = []
            for name, strokes in hand.items():
                draw(page, placed(strokes, scale=scale, right=right, down=down))
                answers.append(settled(page).rstrip("?") == name)
                page.press("Clear")
            assert sum(answers) >= 9, (scale, answers)


def test_a_drawing_is_answered_corrected_by_hand_and_taken_back(page):
    assert "0" in page.text(".intro")
    draw(page, ROUND["3"])
    assert settled(page) == "3"
    assert re.fullmatch(r"I am \d\d % sure\.", page.text(".words"))
    page.wait("document.getElementById('live').textContent.startsWith('3: I am')")
    draw(page, [placed([[[0.1, 0.1], [0.9, 0.9]]])[0]])
    page.run("document.querySelector('canvas').blur()")
    page.driver.switch_to.active_element.send_keys("\ue009z\ue000")  # Ctrl+Z: the second stroke
    assert settled(page) == "3"
    page.press("Undo")
    assert page.text(".answer") is None
    assert "Draw one of them" in page.text(".hint")


def test_the_keyboard_draws(page):
    canvas = page.find("canvas.pad")
    canvas.send_keys(" " + "\ue015" * 20 + " ")  # down
    assert settled(page).rstrip("?") == "1"
    assert not page.run("return document.querySelector('.pad').classList.contains('blank')")


def test_what_it_was_never_taught_is_not_sure(page):
    draw(page, GRID)
    assert settled(page).endswith("?")
    assert page.text(".words") == "Not sure. It looks unlike what I was taught."
    assert page.run("return document.querySelector('.result').classList.contains('unsure')")
    page.press("Teach me this")
    assert page.text("dialog h2") == "What is it really?"


WATCHED = """
window.tracks = [];
const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = async (wanted) => {
  const stream = await open(wanted);
  window.tracks.push(...stream.getTracks());
  return stream;
};
"""


def live(page):
    return page.run("return window.tracks.filter(track => track.readyState === 'live').length")


def test_the_camera_is_off_until_pressed_and_stops_on_leaving(page):
    page.run(WATCHED)
    for leave in ("Stop", "Escape", "Draw", "Teach"):
        page.press("Camera")
        assert live(page) == 0
        assert "The camera is off" in page.text(".stage")
        page.press("Start camera")
        settled(page)
        page.find(".answer")
        assert live(page) == 1
        assert page.text(".on") == "Camera on"
        assert page.run("return getComputedStyle(document.querySelector('video')).transform.startsWith('matrix(-1')")
        if leave == "Escape":
            page.driver.switch_to.active_element.send_keys("\ue00c")
        else:
            page.press(leave)
        page.wait("window.tracks.every(track => track.readyState === 'ended')")
    page.run("location.hash = '#try'")


def test_another_camera_can_be_chosen(page):
    page.run(WATCHED)
    page.press("Camera")
    page.press("Start camera")
    page.find("select")
    other = page.run("return [...document.querySelectorAll('option')].find(each => !each.selected).value")
    page.find(f"option[value='{other}']").click()
    page.wait("document.querySelector('select')?.value === arguments[0] && document.querySelector('video')", other)
    page.wait("window.tracks.length === 2")
    assert live(page) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NotAllowedError", "not allowed"),
        ("NotReadableError", "busy"),
        ("NotFoundError", "No camera was found"),
    ],
)
def test_each_refusal_of_the_camera_has_its_own_words(page, name, words):
    page.run(
        "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', arguments_0) }".replace(
            "arguments_0", json.dumps(name)
        )
    )
    page.press("Camera")
    page.press("Start camera")
    page.wait("document.querySelector('.still [role=alert]')")
    assert words in page.text(".still")
    page.press("Try again")


def test_over_plain_http_a_photo_is_taken_instead(page, pictures):
    page.run("Object.defineProperty(navigator, 'mediaDevices', {value: undefined})")
    page.press("Camera")
    assert "need https" in page.text(".still")
    photo = page.find("input[capture=environment]")
    assert photo.get_attribute("accept") == "image/*"
    photo.send_keys(str(pictures / "digit-0.png"))
    assert settled(page) == "0"


GIVE = """
const [content, name, type] = arguments;
const transfer = new DataTransfer();
transfer.items.add(new File([Uint8Array.from(atob(content), each => each.charCodeAt(0))], name, {type: "image/png"}));
const event = type === "drop" ? new DragEvent(type, {dataTransfer: transfer, bubbles: true, cancelable: true})
  : new ClipboardEvent(type, {clipboardData: transfer, bubbles: true});
document.querySelector("main").dispatchEvent(event);
"""


@pytest.mark.parametrize("way", ["upload", "drop", "paste"])
def test_one_picture(page, pictures, way):
    path = pictures / "digit-7.png"
    if way == "upload":
        page.press("Pictures")
        choose(page, path)
    else:
        page.run(GIVE, base64.b64encode(path.read_bytes()).decode(), path.name, way)
    page.find(".answer")
    assert settled(page) == "7"
    assert page.text(".name") == "digit-7.png"
    assert page.run("return document.querySelector('.square img').naturalWidth") == 64
    page.press("Another picture")
    page.find(".drop")


def test_what_is_no_image_is_told(page, tmp_path):
    (tmp_path / "<img src=x onerror=alert(1)>.png").write_text("no image")
    page.press("Pictures")
    choose(page, tmp_path / "<img src=x onerror=alert(1)>.png")
    page.find(".trouble")
    assert page.text(".name") == "<img src=x onerror=alert(1)>.png"
    assert "no JPEG, PNG" in page.text(".trouble")
    assert all("422" in told for told in page.complaints())  # the browser tells of each refusal by itself


def test_many_pictures_give_a_table_and_the_file_of_imprint_predict(page, pictures, exported, tmp_path):
    mine = shutil.copytree(pictures, tmp_path / "mine")
    (mine / "broken.png").write_text("no image")
    page.press("Pictures")
    page.find("input[webkitdirectory]").send_keys(str(mine))
    page.find("table")
    rows = page.run("return [...document.querySelectorAll('tbody tr')].map(row => row.textContent)")
    assert len(rows) == 12
    assert "broken.png" in rows[0]
    page.run("""const address = URL.createObjectURL;
      URL.createObjectURL = blob => (blob.type === "text/csv" && (window.saved = blob.text()), address(blob))""")
    page.run("HTMLAnchorElement.prototype.click = () => {}")
    page.press("Download CSV")
    written = page.driver.execute_async_script("window.saved.then(arguments[0])")
    run_imprint("predict", exported, "mine", "-o", "x.csv", cwd=tmp_path)
    assert written == (tmp_path / "x.csv").read_text()
    unsure = [line["unsure"] == "yes" for line in csv.DictReader(io.StringIO(written))]
    flags = page.run("return [...document.querySelectorAll('tbody tr')].map(row => row.className)")
    assert flags == ["bad", *["unsure"] * sum(unsure), *[""] * (len(unsure) - sum(unsure))]
    page.press("mine/digit-4.png")
    assert settled(page) == "4"
    page.press("Back to the table")
    page.find("table")


def test_ties_round_to_even_as_in_python(page):
    shares = [k / 64 for k in range(65)] + [0.99995, 0.12345, 1 / 3]
    script = """const done = arguments[1];
    import("/static/table.js").then(({csv}) => done(csv(arguments[0].map(share =>
      ({source: 'a "b", c', label: "x", confidence: share, unsure: false, why: "", probabilities: {}})))))"""
    written = list(csv.reader(io.StringIO(page.driver.execute_async_script(script, shares))))[1:]
    assert [line[2] for line in written] == [f"{share:.4f}" for share in shares]
    assert {line[0] for line in written} == {'a "b", c'}


def test_names_are_text(page):
    name = "<img src=x onerror=alert(1)>"
    script = """const done = arguments[1];
    import("/static/answers.js").then(({answerBars}) => {
      answerBars(document.querySelector(".result")).show(
        {label: arguments[0], confidence: 0.7, unsure: false, why: "", probabilities: {[arguments[0]]: 0.7, b: 0.3}});
      done();
    })"""
    page.driver.execute_async_script(script, name)
    assert page.text(".answer") == name
    assert page.text(".bars .name") == name
    assert page.run("return document.querySelectorAll('.result img').length") == 0
    for file in STATIC.iterdir():
        content = file.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|https?://(?!www\.w3)", content
        )
        assert " style=" not in content


def test_wrong_teaches_the_right_class_once(page):
    draw(page, ROUND["3"])
    settled(page)
    samples = """return fetch("/api/project").then(answer => answer.json())
      .then(project => Object.fromEntries(project.classes.map(each => [each.name, each.samples])))"""
    page.press("Wrong?")
    page.find("dialog").send_keys("8")  # a digit's key is the digit
    page.find(".toast")
    assert "8" in page.text(".toast")
    assert page.run(samples)["8"] == 1
    page.find(".toast .button").click()
    page.wait("!document.querySelector('.toast')")
    page.wait("document.getElementById('live').textContent === 'Undone.'")
    assert page.run(samples)["8"] == 0


@contextlib.contextmanager
def answering(page, script):
    """A page whose requests some JavaScript answers: `answer(path)` gives a Response, or nothing to ask the server."""
    source = f"""const real = window.fetch, answer = {script};
      window.fetch = async (path, options) =>
        (await answer(String(path), () => real(path, options))) ?? real(path, options)"""
    added = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    page.open(f"{page.home}#try")
    try:
        yield
    finally:
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_why_shows_what_decided(page):
    page.find("canvas.pad")
    draw(page, ROUND["3"])
    settled(page)
    page.press("Why?")
    page.wait("document.querySelector('dialog [role=status]').textContent")
    assert page.text("dialog h2") == "Why 3?"
    page.wait("document.querySelector('dialog .pair > :last-child img')?.naturalWidth >= 280")
    assert page.barriers() == []
    page.driver.switch_to.active_element.send_keys("\ue00c")  # Escape
    page.wait("!document.querySelector('dialog')")


def test_a_model_that_is_being_prepared_is_waited_for(page):
    later = """async (path, real) => {
      if (path !== "/api/project" || window.asked) return null;
      window.asked = true;
      const project = await (await real()).json();
      project.model = {version: null, digest: null, status: "preparing"};
      return new Response(JSON.stringify(project), {headers: {"Content-Type": "application/json"}});
    }"""
    with answering(page, later):
        page.find("progress")
        assert page.text("h1") == "Getting ready …"
        assert page.barriers() == []
        page.find("canvas.pad")


def test_without_a_session_the_page_says_how_to_get_in(page):
    cookies = page.driver.get_cookies()
    page.driver.delete_all_cookies()
    page.open(f"{page.home}#try")
    page.find(".empty")
    assert page.text("h1") == "This page is locked."
    assert page.barriers() == []
    assert all("401" in told for told in page.complaints())
    for cookie in cookies:
        page.driver.add_cookie(cookie)


def test_the_gear_shows_curl_for_this_very_picture(page):
    draw(page, SLANTED["5"])
    answer = settled(page)
    page.press("For engineers")
    page.find("dialog pre")
    command = page.text("dialog pre")
    assert page.home in command
    printed = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed)["predictions"][0]["label"] == answer.rstrip("?")
    assert page.barriers() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1440, 3840])
def test_no_barrier_in_any_state(page, pictures, width, scheme):
    page.show(width, 900, scheme)

    def fits(state):
        assert page.barriers() == [], state

    fits("empty")
    draw(page, ROUND["3"])
    settled(page)
    fits("sure")
    page.press("Wrong?")
    fits("wrong")
    page.press("Close")
    draw(page, GRID)
    settled(page)
    fits("unsure")
    page.press("Camera")
    fits("camera off")
    page.press("Start camera")
    page.find(".answer")
    fits("camera on")
    page.press("Pictures")
    fits("files")
    choose(page, *sorted(pictures.iterdir()))
    page.find("table")
    fits("table")


def test_the_words_of_the_page_are_all_there():
    words = json.loads((STATIC / "strings.json").read_text())
    for file in STATIC.iterdir():
        if file.name.endswith(".js"):
            assert set(re.findall(r'\bt\("([a-z][^"]*)"', file.read_text())) <= set(words), file.name


def test_the_page_weighs_at_most_60_kb_on_the_wire(page):
    weight = 0
    for file in STATIC.iterdir():
        asked = Request(f"{page.home}static/{file.name}", headers={"Accept-Encoding": "gzip"})
        with urlopen(asked) as answer:
            sent = answer.read()
        assert gzip.decompress(sent) == file.read_bytes()
        weight += len(sent)
    assert weight <= 60_000
