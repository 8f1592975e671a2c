"""The page of `scripts/browser` in headless Chromium: crops, tokens and boxes are those of `OnnxTracker`.

Needs a browser, playwright, and the files of onnxruntime-web, of which CONTRIBUTING.md says how they are found.
"""

import base64
import functools
import http.server
import json
import os
import random
import re
import shutil
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from modeling_pjvlt import TINY_CHECKPOINT, PJVLTModel, PJVLTProcessor
from modeling_pjvlt.data.synthetic.procedural import ProceduralClip
from modeling_pjvlt.geometry_pjvlt import clip_box, crop_array, crop_geometry
from modeling_pjvlt.results_pjvlt import TrackingResults, make_result
from modeling_pjvlt.sentences_pjvlt import clean_sentences
from modeling_pjvlt.video_writer_pjvlt import VideoWriter

for needed in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(needed, reason=f"exports need {needed}: pip install 'pjvlt[export]'")
playwright = pytest.importorskip("playwright.sync_api", reason='needs playwright: pip install -e ".[browser]"')

from modeling_pjvlt.onnx.export import write_export  # noqa: E402, after the skips
from modeling_pjvlt.onnx.tracker import OnnxModel, OnnxTracker  # noqa: E402

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "scripts" / "browser"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
RUNTIME = Path(os.environ.get("ONNXRUNTIME_WEB", ROOT / "node_modules" / "onnxruntime-web")) / "dist"
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    """`python -m http.server`, without its log."""

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a user serves: the page, and beside it an export of the bundled checkpoint and a copy of the runtime."""
    if not all((RUNTIME / name).is_file() for name in RUNTIME_FILES):
        pytest.skip(f"no onnxruntime-web in {RUNTIME.parent}: see CONTRIBUTING.md")
    folder = tmp_path_factory.mktemp("browser") / "page"
    shutil.copytree(PAGE, folder, ignore=lambda path, names: [name for name in names if (Path(path) / name).is_dir()])
    for name in RUNTIME_FILES:
        shutil.copy(RUNTIME / name, folder)
    (folder / "pjvlt-onnx").mkdir()
    model = PJVLTModel.from_pretrained(TINY_CHECKPOINT).eval()
    write_export(folder / "pjvlt-onnx", model, PJVLTProcessor.from_pretrained(TINY_CHECKPOINT), "pjvlt-tiny")
    return folder


@pytest.fixture(scope="module")
def address(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietFiles, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The page, in a browser that reaches loopback only."""
    page = browser.new_context(viewport={"width": 1200, "height": 900}, accept_downloads=True).new_page()
    page.set_default_timeout(120_000)
    page.outside, page.mistakes = [], []

    def sort_out(route):
        if route.request.url.startswith((address, "blob:")):
            return route.continue_()
        page.outside.append(route.request.url)
        return route.abort()

    page.route("**/*", sort_out)
    page.on("pageerror", lambda error: page.mistakes.append(str(error)))
    page.goto(f"{address}?runtime=ort.wasm.min.mjs")
    yield page
    page.context.close()
    assert page.mistakes == []


def rgba(frame):
    """An image as the module takes it, its pixels in base64."""
    pixels = np.concatenate([frame, np.full((*frame.shape[:2], 1), 255, np.uint8)], axis=2)
    height, width = frame.shape[:2]
    return {"width": width, "height": height, "pixels": base64.b64encode(pixels.tobytes()).decode()}


UNPACK = """const module = await import("./pjvlt.js");
const image = ({width, height, pixels}) =>
  ({width, height, data: Uint8ClampedArray.from(atob(pixels), (letter) => letter.charCodeAt(0))});
"""


def run(page, code, **given):
    """Run the body of an async function of the page, which sees `module`, `image` and what is given."""
    return page.evaluate(f"async ({{{', '.join(given)}}}) => {{ {UNPACK} {code} }}", given)


CROPS = [  # box, factor, size: inside, over each edge, tiny, large, and outside
    ((100.3, 60.7, 40.2, 30.9), 4.0, 144),
    ((-10.0, -5.5, 60, 33), 2.0, 72),
    ((290, 200, 50, 70), 4.0, 96),
    ((150, 100, 1.5, 1), 4.0, 128),
    ((5, 5, 300, 220), 4.0, 64),
    ((150.25, 80.5, 9, 200), 3.7, 31),
    ((2000, 100, 20, 20), 2.0, 16),
]


def test_crops_are_those_of_python(page):
    frame = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    code = """const frame = image(picture);
    return crops.map(([box, factor, size]) => {
      const crop = module.cropGeometry(box, factor, size);
      return [crop.left, crop.top, crop.scale, [...module.cropImage(frame, crop, size)]];
    });"""
    for (box, factor, size), found in zip(CROPS, run(page, code, picture=rgba(frame), crops=CROPS), strict=True):
        expected = crop_geometry(box, factor, size)
        assert tuple(found[:3]) == expected
        pixels = np.reshape(found[3], (3, size, size))
        np.testing.assert_allclose(pixels, crop_array(frame, *expected, size), atol=1e-3)
        assert (box[0] > 320) == (pixels.max() == 0)


def test_boxes_on_the_frame_are_those_of_python(page):
    numbers = np.random.default_rng(1).uniform(-200, 500, (100, 4))
    numbers[:, 2:] = abs(numbers[:, 2:])
    found = run(page, "return boxes.map((box) => module.clipBox(box, 320, 240));", boxes=numbers.tolist())
    np.testing.assert_array_equal(found, [clip_box(box, (240, 320)) for box in numbers])


def sentences():
    """Of people, of the checkpoint's own tokens, and of letters from everywhere."""
    own = list(json.loads((Path(TINY_CHECKPOINT) / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    chance = random.Random(0)
    listed = [
        "white dog on the left", "The WHITE Dog's tail, isn't it?", "", "   ", "a\tb\nc\rd",
        "café Ünïcode İstanbul", "dog " * 60, "a" * 101, "a" * 100, "人 a 狗 dog", "犬を追う",
        "ΣΑΣ ΌΔΟΣ", "e\u0301te\u0301", "half-done_thing",
        "[MASK] the [CLS]dog[SEP] [mask]", "price: $5+3=8 ~`^|<>", "zero\u200bwidth\u00adsoft",
        "non\u00a0breaking\u3000blank", "tab\x0bvertical\x0cform\x1cfile\x85next", "\ufffdodd\x00null",
        "emoji 🐶 dog 👩‍👧", "हिन्दी शब्द", "ไทย ภาษา",
        "עִבְרִית", "한국어 개",
    ]  # fmt: skip
    for _ in range(400):
        words = [chance.choice(own).removeprefix("##") for _ in range(chance.randint(1, 12))]
        listed.append(chance.choice([" ", "", "-", ", "]).join(words))
    spans = ((0, 0x250), (0x300, 0x700), (0x2000, 0x2070), (0x4DF0, 0x4E10))
    letters = [chr(code) for span in spans for code in range(*span)]
    letters = [letter for letter in letters if unicodedata.ucd_3_2_0.category(letter) != "Cn"]  # which all tables know
    listed += ["".join(chance.choices(letters, k=chance.randint(1, 30))) for _ in range(400)]
    return listed


def test_tokens_are_those_of_python(page, folder):
    listed = sentences()
    code = """const tokenizer = new module.Tokenizer(await (await fetch("pjvlt-onnx/tokenizer.json")).json());
    return listed.map((text) => [module.cleanSentence(text), tokenizer.encode(module.cleanSentence(text))]);"""
    model = OnnxModel(folder / "pjvlt-onnx")
    for text, (cleaned, ids) in zip(listed, run(page, code, listed=listed), strict=True):
        assert cleaned == clean_sentences(text, 1)[0]
        assert ids == model.tokenize([cleaned])["input_ids"][0].tolist(), repr(text)


@pytest.mark.parametrize(("bad", "error"), [("5", "one sentence, a string, got number"), ("'\\ud83d dog'", "half a")])
def test_what_is_no_sentence_is_refused(bad, error, page):
    with pytest.raises(playwright.Error, match=error):
        run(page, f"return module.cleanSentence({bad});")


TRACK = """const model = await module.Model.load("pjvlt-onnx", {runtime: "ort.wasm.min.mjs"});
const tracker = new module.Tracker(model, options);
const [first, ...others] = frames.map(image);
await tracker.start(first, box, text);
const found = [];
for (const frame of others) found.push(await tracker.step(frame));
return found;"""

SESSIONS = [
    ({}, {}),
    ({"windowWeight": 0, "sizeSmoothing": 0}, {"window_weight": 0, "size_smoothing": 0}),
    ({"lostScore": 0.5, "lostAfter": 2, "windowWeight": 1}, {"lost_score": 0.5, "lost_after": 2, "window_weight": 1}),
]


@pytest.mark.parametrize(("options", "same"), SESSIONS, ids=["as exported", "no window", "lost soon"])
def test_boxes_are_those_of_python(options, same, page, folder):
    clip = ProceduralClip(3, 30)
    frames = [clip.frame(number) for number in range(len(clip))]
    if "lostScore" in options:
        frames[8:20] = [np.full_like(frames[0], 90)] * 12  # long enough for a region that has grown to its most
    tracker = OnnxTracker(folder / "pjvlt-onnx", **same)
    tracker.add_target(frames[0], clip.boxes[0], clip.text)
    expected = [tracker.step(frame)[0] for frame in frames[1:]]
    given = {"frames": [rgba(f) for f in frames], "box": clip.boxes[0].tolist(), "text": clip.text}
    found = run(page, TRACK, options=options, **given)
    np.testing.assert_allclose([f["box"] for f in found], [e.box for e in expected], atol=0.5)
    np.testing.assert_allclose([f["score"] for f in found], [e.score for e in expected], atol=1e-3)
    assert [f["lost"] for f in found] == [e.lost for e in expected]
    assert any(e.lost for e in expected) == ("lostScore" in options)


def test_boxes_are_written_as_python_writes_them(page, tmp_path):
    tracked = [((-3.2, 10.1234, 40.777, 30), 1.0, False), ((300.5, 200.256, 40, 60.019), 0.123456, True)]
    expected = TrackingResults(fps=30.0, text="a dog", source="clip.mp4", model="pjvlt-tiny")
    for number, (box, score, lost) in enumerate(tracked):
        expected.append(make_result(number, box, score, number / 30, (240, 320), lost))
    code = """const results = tracked.map(([box, score, lost], number) =>
      module.makeResult(number, number / 30, {box, score, lost}, {width: 320, height: 240}));
    return [module.toCsv(results), module.toJson(head, results)];"""
    head = {"video": "clip.mp4", "model": "pjvlt-tiny", "text": "a dog", "fps": 30.0}
    written, as_json = run(page, code, tracked=tracked, head=head)
    assert written == expected.save(tmp_path / "boxes.csv").read_text()
    assert json.loads(as_json) == json.loads(expected.save(tmp_path / "boxes.json").read_text())


def test_a_folder_that_does_not_serve_is_said(page, folder):
    load = 'await module.Model.load(name, {runtime: "ort.wasm.min.mjs"});'
    with pytest.raises(playwright.Error, match=r"missing/pjvlt_onnx\.json cannot be read \(the server says 404\)"):
        run(page, load, name="missing")
    other = folder / "other"
    other.mkdir(exist_ok=True)
    (other / "pjvlt_onnx.json").write_text('{"format": "openvino"}')
    with pytest.raises(playwright.Error, match="is an export to openvino; a browser needs pjvlt-export --format onnx"):
        run(page, load, name="other/")
    with pytest.raises(playwright.Error, match=r"ONNX Runtime Web cannot be loaded from .*/gone\.mjs"):
        run(page, 'await module.Model.load("pjvlt-onnx", {runtime: "gone.mjs"});')
    with pytest.raises(playwright.Error, match="tokenizer of BERT only; this export's consists of Lowercase, "):
        run(page, 'new module.Tokenizer({normalizer: {type: "Lowercase"}, added_tokens: []});')


@pytest.mark.parametrize(
    ("box", "error"),
    [
        ([1, 2, 3], "not four numbers"),
        ([1, 2, 0, 4], "wider and higher than 0"),
        ([400, 5, 20, 20], "outside the frame of 320 x 240"),
    ],
)
def test_a_bad_box_is_refused(box, error, page):
    code = "await new module.Tracker({settings: {grid: 4}}).start({width: 320, height: 240}, box);"
    with pytest.raises(playwright.Error, match=error):
        run(page, code, box=box)


def test_a_frame_of_another_size_is_refused(page):
    code = """const tracker = new module.Tracker({settings: {grid: 4}});
    tracker.target = {width: 320, height: 240};
    await tracker.step({width: 240, height: 320});"""
    with pytest.raises(playwright.Error, match=r"The frame is 240 x 320 pixels, but .* 320 x 240"):
        run(page, code)


def test_every_frame_of_a_video_is_seen_once(page, folder):
    """Also where the page has no time to look while a frame is worked on."""
    with VideoWriter(folder / "levels.mp4", 25) as writer:
        for level in range(20):
            writer.write(np.full((64, 96, 3), 10 + 12 * level, np.uint8))
    code = """const video = document.querySelector("video");
    video.src = "levels.mp4";
    await new Promise((resolve) => (video.onloadeddata = resolve));
    const seen = [];
    for await (const {image, time} of module.videoFrames(video)) {
      seen.push([time, image.data[4 * (32 * 96 + 48)], image.width, image.height]);
      for (const end = performance.now() + (seen.length % 3) * 60; performance.now() < end; );
    }
    return seen;"""
    seen = np.array(run(page, code))
    np.testing.assert_allclose(seen[:, 0], np.arange(20) / 25, atol=1e-3)
    np.testing.assert_allclose(seen[:, 1], 10 + 12 * np.arange(20), atol=4)
    assert (seen[:, 2:] == (96, 64)).all()


def test_a_video_is_tracked_on_the_page(page, folder, tmp_path):
    clip = ProceduralClip(3, 12, size=(240, 320))
    with VideoWriter(tmp_path / "clip.mp4", 30) as writer:
        for number in range(12):
            writer.write(clip.frame(number))
    page.locator("#track").click()
    page.get_by_role("alert").filter(has_text="no video yet").wait_for()
    (tmp_path / "text.mp4").write_text("no video")
    page.locator("#file").set_input_files(str(tmp_path / "text.mp4"))
    page.get_by_role("alert").filter(has_text="This browser cannot play text.mp4").wait_for()

    page.locator("#file").set_input_files(str(tmp_path / "clip.mp4"))
    canvas = page.locator("#stage canvas")
    canvas.wait_for()
    page.locator("#track").click()
    page.get_by_role("alert").filter(has_text="no box yet").wait_for()
    x, y, w, h = map(float, clip.boxes[0])
    shown = canvas.bounding_box()
    scale = shown["width"] / 320
    page.mouse.move(shown["x"] + (x + w) * scale, shown["y"] + y * scale)
    page.mouse.down()
    page.mouse.move(shown["x"] + x * scale, shown["y"] + (y + h) * scale, steps=3)
    page.mouse.up()
    drawn = [float(page.locator(f"#box-{name}").input_value()) for name in "xywh"]
    np.testing.assert_allclose(drawn, [x, y, w, h], atol=1)
    page.locator("#sentence").fill(clip.text)
    page.locator("#track").click()
    page.locator("#results").wait_for()
    assert page.get_by_role("alert").is_hidden()
    assert re.search(r"Mean confidence 0\.\d\d · 12 frames", page.locator("#status").inner_text())

    written = {}
    for suffix in ("csv", "json"):
        with page.expect_download() as download:
            page.locator(f"#{suffix}").click()
        assert download.value.suggested_filename == f"clip.{suffix}"
        written[suffix] = Path(download.value.path()).read_text()
    told = json.loads(written["json"])
    assert (told["video"], told["model"], told["text"]) == ("clip.mp4", "pjvlt-tiny", clip.text)
    assert told["fps"] == pytest.approx(30, abs=0.01) and len(told["frames"]) == 12
    tracker = OnnxTracker(folder / "pjvlt-onnx")
    tracker.add_target(clip.frame(0), drawn, clip.text)
    expected = [drawn] + [tracker.step(clip.frame(number))[0].box for number in range(1, 12)]
    found = [[float(value) for value in line.split(",")[1:5]] for line in written["csv"].splitlines()[1:]]
    np.testing.assert_allclose(found, expected, atol=4)  # a browser's colours are not quite those of the frames

    page.locator("#again").click()
    assert page.locator("#results").is_hidden()
    assert float(page.locator("#box-w").input_value()) == drawn[2]
    if picture := os.environ.get("PJVLT_SCREENSHOT"):
        page.screenshot(path=picture, full_page=True)
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.outside == []
