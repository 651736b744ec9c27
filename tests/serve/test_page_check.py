"""Check, in a real browser: score, mistakes to correct, before and after, versions, the doctor."""

import json
import re
import signal

import pytest
from selenium.webdriver.common.keys import Keys

from imprint.serve.project import Given, Project
from page_helpers import needs_browser, opened_browser
from serve.pictures import photo
from serve_helpers import Server

pytestmark = needs_browser
SIZES = ((320, 640), (768, 1024), (1440, 900))
NAMES = ("Disc", "Square")
WRONG = 3  # squares that were given as discs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A project of five takes a class, some of which are the exam, with some labels that are wrong."""
    folder = tmp_path_factory.mktemp("checked")
    project = Project(folder / "project")
    seed = 0
    for kind, name in enumerate(NAMES):
        key = project.add_class(name)
        for number in range(5):
            take = project.add_take(key, "upload")
            images = []
            for place in range(4):
                seed += 1
                swapped = kind == 0 and number == 0 and place < WRONG
                images.append(Given(f"{seed}.jpg", photo(1 - kind if swapped else kind, seed)))
            project.add_samples(take, images)
    project.close()
    return folder


@pytest.fixture(scope="module")
def page(folder):
    """The page after a first training."""
    server = Server("--project", folder / "project", folder=folder / "data", wait="/healthz")
    with opened_browser() as page:
        page.show(1440)
        page.open(f"http://127.0.0.1:{server.port}/login?code={server.code}")
        page.home = f"http://127.0.0.1:{server.port}/"
        page.find(".train")
        page.open(f"{page.home}#check")
        page.find(".empty")
        page.empty = page.text(".empty h1"), page.barriers()
        train(page)
        yield page
    server.stop(signal.SIGKILL)


@pytest.fixture(autouse=True)
def _begin(page):
    page.show(1440)
    page.open(f"{page.home}#check")
    page.find(".check-score .score")
    yield
    assert page.complaints() == []


def train(page):
    page.open(f"{page.home}#teach")
    page.find(".train").click()
    page.wait("document.querySelector('.model.busy')")
    page.wait("!document.querySelector('.model.busy')", seconds=120)


def ask(page, method, path, body=None):
    script = """const [method, path, json, done] = arguments;
      fetch(path, {method, body: json, headers: json ? {"Content-Type": "application/json"} : {}})
        .then(answer => answer.json()).then(done)"""
    return page.driver.execute_async_script(script, method, path, None if body is None else json.dumps(body))


def sizes(page):
    return {each["name"]: each["samples"] for each in ask(page, "GET", "/api/project")["classes"]}


def mistakes(page):
    page.wait("document.querySelector('.check-mistakes .cell[data-sha]')")
    return int(page.text(".check-mistakes > .soft").split()[0])


def test_before_a_training_there_is_nothing_to_check(page):
    assert page.empty == ("There is nothing to check yet", [])


def test_the_score_has_an_interval_and_a_method(page):
    score = ask(page, "GET", "/api/check")["score"]
    assert page.text(".check-score strong") == f"{score['right']} of {score['images']} right"
    low, high = re.search(r"\((\d+) to (\d+) of 100\)", score["text"]).groups()
    assert f"Probably {low} to {high} of 100." in page.text(".check-score")
    assert "An estimate of the method" in page.text(".check-score")
    assert page.run("return document.querySelectorAll('.matrix tbody tr').length") == 2


def test_mistakes_are_corrected_by_a_key_and_taken_back(page):
    before, held = mistakes(page), sizes(page)
    assert "You said Disc. I say Square" in page.text(".patient")
    page.find(".grid").send_keys("2")
    page.wait("document.querySelector('.toast')?.textContent.startsWith('1 picture is now Square')")
    assert mistakes(page) == before - 1
    assert sizes(page) == {"Disc": held["Disc"] - 1, "Square": held["Square"] + 1}
    page.driver.refresh()
    assert mistakes(page) == before - 1  # for good
    page.find("main").send_keys(Keys.CONTROL, "z")
    page.wait(f"document.querySelector('.check-mistakes > .soft').textContent.startsWith('{before} ')")
    assert sizes(page) == held


def test_a_label_that_was_right_stays(page):
    before, held = mistakes(page), sizes(page)
    page.find(".grid").send_keys("1")
    page.wait("document.querySelector('.toast')?.textContent.startsWith('It stays Disc')")
    assert mistakes(page) == before - 1
    assert sizes(page) == held


def test_what_the_doctor_finds_is_listed(page):
    page.press("Look through all pictures")
    page.wait(
        "document.querySelector('.check-findings .button').textContent === 'Look through all pictures'", seconds=60
    )
    assert page.text(".found") or page.text(".check-findings p") == "Nothing found."


def test_why(page):
    mistakes(page)
    page.press("Why?")
    page.wait(
        "document.querySelector('dialog .words').textContent || document.querySelector('dialog .still')", seconds=60
    )
    page.wait("document.querySelector('dialog img[src^=blob]')", seconds=60)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_kept_out(page, scheme):
    mistakes(page)
    for width, height in SIZES:
        page.show(width, height, scheme)
        assert page.barriers() == []


def test_many_at_once_then_before_and_after_and_back(page):
    mistakes(page)
    held = sizes(page)
    page.press("Choose all")
    n = int(page.text(".patient .words").split()[0])
    assert n >= WRONG
    page.find(".check-mistakes .chip:nth-child(2)").click()
    page.wait("document.querySelector('.check-mistakes').textContent.includes('All looked through')")
    assert sizes(page)["Square"] > held["Square"]
    page.wait("document.querySelector('.again')")
    train(page)
    page.find(".verdict")
    assert "luck" in page.text(".verdict") or "Cannot be proven yet" in page.text(".verdict")
    page.press("Before and after")
    page.find(".check-versus .bars")
    versions = ask(page, "GET", "/api/versions")
    told = page.text(".check-versus")
    assert versions[0]["comparison"]["text"] in told
    assert f"{len(versions[0]['comparison']['mended'])} mended" in told
    page.press("Keep old")
    page.wait("document.querySelector('.toast')?.textContent.startsWith('Version 1 answers now')")
    page.press("Keep new")
    page.wait("document.querySelector('.toast')?.textContent.startsWith('Version 2 answers now')")
    page.press("Go back to version 1")
    page.wait("document.querySelector('.versions .current strong').textContent === 'Version 1'")
    assert page.barriers() == []
