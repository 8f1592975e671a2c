"""The web page of `scripts/app.py` in a browser, on a computer and on a phone."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from test_app import ROOT, SCRIPT, write_clip, write_text_file

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of a running page; it has to leave nothing behind when it is told to stop."""
    folder = tmp_path_factory.mktemp("page")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "server").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "server"), "OMP_NUM_THREADS": "1"}
    log = folder / "server.log"
    command = [sys.executable, str(SCRIPT), "--port", str(port), "--device", "cpu", "--max_seconds", "3"]
    command += ["--detector", str(folder / "none")]
    with log.open("w") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=folder)
    try:
        _wait_for_page(f"http://127.0.0.1:{port}/", server, log)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(60)
        finally:
            server.kill()
    assert "Traceback" not in log.read_text(), log.read_text()
    assert not list((folder / "server").glob("pjvlt-app-*"))


def _wait_for_page(address, server, log, seconds=180):
    deadline = time.monotonic() + seconds
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            opener.open(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)  # between two looks at the condition
    raise AssertionError(f"no page after {seconds} seconds:\n{log.read_text()}")


@pytest.fixture
def page(address):
    """The page in a browser that reaches loopback only; what else it asks for is listed in `page.outside`."""
    playwright = pytest.importorskip("playwright.sync_api", reason='needs playwright: pip install -e ".[browser]"')
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1200, "height": 900}, accept_downloads=True).new_page()
        page.set_default_timeout(60_000)
        page.outside, page.mistakes = [], []

        def sort_out(route):
            if route.request.url.startswith(address):
                return route.continue_()
            page.outside.append(route.request.url)
            return route.abort()

        page.route("**/*", sort_out)
        page.on("pageerror", lambda error: page.mistakes.append(str(error)))
        page.goto(address)
        page.get_by_role("button", name="Track", exact=True).wait_for()
        yield page
        browser.close()


def _chromium():
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    return found or pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")


@pytest.fixture
def browser_tools():
    pytest.importorskip("playwright.sync_api", reason='needs playwright: pip install -e ".[browser]"')
    _chromium()


def upload(page, path):
    page.locator("#upload input[type=file]").set_input_files(str(path))


def click_frame(page, x, y):
    """Click a pixel of the frame, wherever and at whatever size the page shows it; it is never enlarged."""
    image = page.locator("#frame img")
    shown = image.evaluate("e => [e.clientWidth, e.clientHeight, e.naturalWidth, e.naturalHeight]")
    scale = min(shown[0] / shown[2], shown[1] / shown[3], 1)
    left, top = (shown[0] - shown[2] * scale) / 2, (shown[1] - shown[3] * scale) / 2
    image.click(position={"x": left + (x + 0.5) * scale, "y": top + (y + 0.5) * scale})


def drag_frame(page, first, second):
    """Draw a box from one pixel of the frame to another."""
    image = page.locator("#frame img")
    image.scroll_into_view_if_needed()
    shown = image.evaluate("e => [e.clientWidth, e.clientHeight, e.naturalWidth, e.naturalHeight]")
    scale, corner = min(shown[0] / shown[2], shown[1] / shown[3], 1), image.bounding_box()
    left, top = (shown[0] - shown[2] * scale) / 2 + corner["x"], (shown[1] - shown[3] * scale) / 2 + corner["y"]
    (x0, y0), (x1, y1) = ((left + x * scale, top + y * scale) for x, y in (first, second))
    page.mouse.move(x0, y0)
    page.mouse.down()
    page.mouse.move((x0 + x1) / 2, (y0 + y1) / 2)
    page.mouse.move(x1, y1)
    assert page.locator("#rubber").is_visible()
    page.mouse.up()


def numbers(page):
    return [page.locator(f"#box-{name} input").input_value() for name in "xywh"]


def message(page, text):
    """Wait for a message with this text, check that it is no stack trace, and close it."""
    toast = page.locator(".toast-body", has_text=text)
    toast.wait_for()
    assert "Traceback" not in toast.inner_text() and len(toast.inner_text()) < 300
    toast.locator("button").first.click()
    toast.wait_for(state="detached")


def image_source(page):
    return page.locator("#frame img").get_attribute("src")


def wait_for_other_image(page, source):
    page.wait_for_function(
        "old => { const e = document.querySelector('#frame img'); return e && e.src !== old && e.complete }",
        arg=source,
    )


@pytest.mark.slow
def test_page_in_a_browser(browser_tools, page, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 24)
    page.get_by_role("button", name="Track", exact=True).click()
    message(page, "There is no video yet")

    upload(page, tmp_path / "clip.mp4")
    page.locator("#frame img").wait_for()
    page.wait_for_function("() => document.querySelector('#frame img').naturalWidth > 0")
    page.get_by_role("button", name="Track", exact=True).click()
    message(page, "There is no box yet")

    x, y, w, h = (round(float(value)) for value in clip.boxes[0])
    source = image_source(page)
    click_frame(page, x + w, y + h)
    wait_for_other_image(page, source)
    source = image_source(page)
    click_frame(page, x, y)
    wait_for_other_image(page, source)
    page.wait_for_function("() => document.querySelector('#box-h input').value !== ''")
    assert np.abs(np.array(numbers(page), float) - [x, y, w, h]).max() <= 2

    page.get_by_role("button", name="Start over").click()
    page.wait_for_function("() => document.querySelector('#box-h input').value === ''")

    page.get_by_role("button", name="Find it by words").click()
    message(page, "There is no sentence yet")
    page.locator("#sentence textarea").fill("a hexagon")
    page.get_by_role("button", name="Find it by words").click()
    message(page, "cannot be loaded on this machine")

    source = image_source(page)
    drag_frame(page, (x + w, y), (x, y + h))
    wait_for_other_image(page, source)
    page.wait_for_function("() => document.querySelector('#box-h input').value !== ''")
    assert all(re.fullmatch(r"\d+", value) for value in numbers(page))
    assert np.abs(np.array(numbers(page), float) - [x, y, w, h]).max() <= 2
    assert page.locator("#rubber").count() == 0

    for name, value in zip("xywh", (900, 5, 40, 40), strict=True):
        page.locator(f"#box-{name} input").fill(str(value))
    page.get_by_role("button", name="Track", exact=True).click()
    message(page, "outside the frame")
    for name, value in zip("xywh", (x, y, w, h), strict=True):
        page.locator(f"#box-{name} input").fill(str(value))
    page.locator("#sentence textarea").fill(clip.text)
    page.get_by_role("button", name="Track", exact=True).click()

    page.locator("#result video").wait_for()
    page.wait_for_function(
        "() => { const v = document.querySelector('#result video'); return v && v.readyState >= 2 && v.duration > 0 }"
    )
    assert page.locator("#result video").evaluate("v => v.duration") == pytest.approx(24 / 30, abs=0.1)
    page.locator("#summary", has_text=re.compile(r"Mean confidence 0\.\d\d")).wait_for()
    page.locator("#plot svg, #plot canvas").first.wait_for()
    for name, count in (
        ("csv", lambda text: len(text.splitlines()) - 1),
        ("json", lambda t: len(json.loads(t)["frames"])),
    ):
        with page.expect_download() as download:
            page.locator(f"#{name}").click()
        assert download.value.suggested_filename == f"boxes.{name}"
        assert count(Path(download.value.path()).read_text()) == 24

    write_text_file(tmp_path / "text.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    write_clip(tmp_path / "long.mp4", 100)
    page.locator("#upload").get_by_label("Clear").click()
    for name, words in (("text", "not a video"), ("empty", "empty"), ("long", "3.3 seconds")):
        page.locator("#upload input[type=file]").wait_for(state="attached")
        upload(page, tmp_path / f"{name}.mp4")
        message(page, words)
        assert page.locator("#frame img").count() == 0
    assert page.outside == [] and page.mistakes == []


@pytest.mark.slow
def test_three_targets_one_of_them_corrected_in_a_browser(browser_tools, page, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 24)
    upload(page, tmp_path / "clip.mp4")
    page.locator("#frame img").wait_for()
    page.wait_for_function("() => document.querySelector('#frame img').naturalWidth > 0")
    x, y, w, h = (round(float(value)) for value in clip.boxes[0])
    places = [((x, y), (x + w, y + h)), ((8, 8), (60, 50)), ((200, 150), (300, 220))]
    for number, place in enumerate(places, 1):
        page.locator("#sentence textarea").fill(f"thing {number}")
        source = image_source(page)
        drag_frame(page, *place)
        wait_for_other_image(page, source)
        page.wait_for_function("() => document.querySelector('#box-h input').value !== ''")
        if number < 3:
            page.locator("#more").click()
            page.wait_for_function("() => document.querySelector('#box-h input').value === ''")
    assert page.locator("#correct").count() == 0
    page.get_by_role("button", name="Track", exact=True).click()
    page.locator("#correct").wait_for()
    assert [label.inner_text() for label in page.locator("#targets label").all()] == [
        f"{number}: thing {number}, box in frame 0" for number in (1, 2, 3)
    ]

    page.locator("#targets label").nth(1).click()
    page.wait_for_function("() => document.querySelector('#box-x input').value === '8'")
    assert page.locator("#sentence textarea").input_value() == "thing 2"
    source = image_source(page)
    page.locator("#number input[type=number]").fill("12")
    wait_for_other_image(page, source)
    page.wait_for_function("() => document.querySelector('#box-x input').value === ''")
    page.locator("#correct").click()
    message(page, "no box for target 2 in frame 12 yet")
    source = image_source(page)
    drag_frame(page, (90, 60), (150, 110))
    wait_for_other_image(page, source)
    page.wait_for_function("() => document.querySelector('#box-h input').value !== ''")
    page.locator("#targets label", has_text="2: thing 2, box in frames 0, 12").wait_for()
    before = page.locator("#result video").get_attribute("src")
    page.locator("#correct").click()
    page.wait_for_function(
        """old => {
            const video = document.querySelector('#result video')
            return video?.src && video.src !== old && video.readyState > 1
        }""",
        arg=before,
    )
    with page.expect_download() as download:
        page.locator("#json").click()
    targets = json.loads(Path(download.value.path()).read_text())["targets"]
    given = [[found["frame"] for found in target["frames"] if found["score"] == 1] for target in targets]
    assert given == [[0], [0, 12], [0]] and all(len(target["frames"]) == 24 for target in targets)
    if picture := os.environ.get("PJVLT_SCREENSHOT"):
        page.screenshot(path=picture, full_page=True)
    page.locator("#less").click()
    page.wait_for_function("() => document.querySelectorAll('#targets label').length === 2")
    assert page.outside == [] and page.mistakes == []


@pytest.mark.slow
def test_example_is_tracked_on_a_phone(browser_tools, page):
    page.set_viewport_size({"width": 360, "height": 740})
    page.locator("#examples button").first.click()
    page.locator("#frame img").wait_for()
    page.wait_for_function("() => document.querySelector('#box-h input').value !== ''")
    assert page.locator("#sentence textarea").input_value()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    source = image_source(page)
    drag_frame(page, (30, 30), (120, 90))
    wait_for_other_image(page, source)
    page.locator("#examples button").first.click()
    page.wait_for_function("() => document.querySelector('#box-x input').value !== '30'")
    page.get_by_role("button", name="Track", exact=True).click()
    page.wait_for_function(
        "() => { const v = document.querySelector('#result video'); return v && v.readyState >= 2 && v.duration > 1 }"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    if picture := os.environ.get("PJVLT_SCREENSHOT"):
        page.screenshot(path=str(Path(picture).with_stem(Path(picture).stem + "-phone")), full_page=True)
    assert page.outside == [] and page.mistakes == []
