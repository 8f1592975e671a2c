"""A web page for the tracker: `python scripts/app.py`, then open the address that it prints.

Upload a video, write a sentence, draw a box on the first frame or let a detector find it by the words, and track the
target. Add more targets, and correct the result in any frame. `app_tracking.py` beside it does the work. For a Hugging
Face Space: `sdk: gradio`, `app_file: scripts/app.py`, and the dependencies of `pjvlt[demo]` in its requirements.txt.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from app_examples import Example, draw_examples
from app_tracking import (
    Detector,
    Limits,
    Refused,
    ResultFolders,
    Scene,
    box_from_corners,
    check_typed_box,
    open_upload,
    summarise,
    track_video,
)

# In a Space the package is not installed but lies beside this folder; an installed package comes first.
sys.path.append(str(Path(__file__).resolve().parent.parent))

KEEP_SECONDS = 3600
NO_VIDEO = "There is no video yet. Upload one or pick an example."

CSS = """
.gradio-container {max-width: 1200px !important; margin: 0 auto !important}
#frame img {cursor: crosshair; touch-action: none; user-select: none; -webkit-user-drag: none}
#drawn {display: none}
#rubber {position: fixed; z-index: 9; border: 2px solid #ffc400; outline: 1px solid #000; pointer-events: none}
#numbers .form {flex-wrap: nowrap}
#numbers .form > * {min-width: 0 !important; padding: 6px !important}
#numbers input {padding: 6px !important; text-align: center; appearance: textfield; -moz-appearance: textfield}
#numbers input::-webkit-inner-spin-button {display: none}
#examples button {white-space: normal; text-align: left; justify-content: flex-start; font-weight: 400}
"""

# Draws a box while the pointer is down on the frame, and passes its corners on; a plain click marks one corner.
DRAG = """
() => {
  let start = null, drawn = false, rubber = null
  const place = event => {
    const image = document.querySelector('#frame img'), shown = image.getBoundingClientRect()
    const [width, height] = [image.naturalWidth, image.naturalHeight]
    const scale = Math.min(shown.width / width, shown.height / height, 1)
    const left = shown.left + (shown.width - width * scale) / 2
    const top = shown.top + (shown.height - height * scale) / 2
    const inside = (value, most) => Math.min(Math.max(value, 0), most)
    return [inside((event.clientX - left) / scale, width), inside((event.clientY - top) / scale, height)]
  }
  const clear = () => { rubber?.remove(); start = rubber = null }
  document.addEventListener('pointerdown', event => {
    if (!event.target.matches('#frame img') || event.button !== 0) return
    event.preventDefault()
    start = {client: [event.clientX, event.clientY], image: place(event)}
    drawn = false
  })
  document.addEventListener('pointermove', event => {
    if (!start) return
    const [x, y] = start.client, [w, h] = [event.clientX - x, event.clientY - y]
    if (!rubber && Math.hypot(w, h) < 6) return
    if (!rubber) {
      rubber = document.body.appendChild(document.createElement('div'))
      rubber.id = 'rubber'
    }
    rubber.style.left = Math.min(x, x + w) + 'px'
    rubber.style.top = Math.min(y, y + h) + 'px'
    rubber.style.width = Math.abs(w) + 'px'
    rubber.style.height = Math.abs(h) + 'px'
  })
  document.addEventListener('pointerup', event => {
    if (start && rubber) {
      drawn = true
      window.drawnCorners = [...start.image, ...place(event)].map(Math.round).join(' ')
      document.querySelector('#drawn').click()
    }
    clear()
  })
  document.addEventListener('pointercancel', clear)
  document.addEventListener('click', event => {
    if (!event.target.matches('#frame img')) return
    if (drawn) event.stopPropagation()
    drawn = false
  }, true)
  document.addEventListener('dragstart', event => { if (event.target.matches('#frame img')) event.preventDefault() })
}
"""


def build(shared, limits: Limits, examples: Sequence[Example], folders: ResultFolders, detector: Detector):
    """The page, a `gr.Blocks`. `shared` is the `TrackingSession` whose model all visitors share."""
    gr = import_gradio()
    import pandas as pd

    no_points = pd.DataFrame({"seconds": [], "confidence": [], "target": []})
    no_results = [None, "", gr.update(value=no_points, visible=False)]
    no_results += [gr.update(value=None, visible=False), gr.update(value=None, visible=False)]

    def show(scene: Scene, corner=None):
        """The outputs `shown`: the frame, and everything about the target that is drawn now."""
        choices = scene.listed()
        several = len(choices) > 1 or len(scene.boxes) > 1
        last = max(((scene.video and scene.video.num_frames) or 1) - 1, 1)
        return [
            scene, corner, scene.drawing(corner), *(scene.box or [None] * 4), scene.texts[scene.target],
            gr.update(maximum=last, value=scene.frame, visible=last > 1),
            gr.update(choices=choices, value=scene.target, visible=several),
            gr.update(visible=several), gr.update(visible=bool(scene.tracked)),
        ]  # fmt: skip

    def warned(act):
        """`act`, but its refusals appear as a warning and change nothing."""

        def act_or_warn(*inputs):
            try:
                return act(*inputs)
            except Refused as refusal:
                gr.Warning(str(refusal), title="Not yet")
                return [gr.skip()] * len(show(Scene()))

        return act_or_warn

    def load(path):
        """The outputs of `loaded` for a new video, or for none."""
        if path is None:
            return [None, *show(Scene()), *no_results]
        try:
            return [gr.skip(), *show(Scene.of(open_upload(path, limits))), *no_results]
        except Refused as refusal:
            gr.Warning(str(refusal), title="This video cannot be used")
            return [None, *show(Scene()), *no_results]

    def load_example(example):
        scene = Scene.of(open_upload(example.path, limits)).mark(example.box).say(example.text)
        return [None, *show(scene), *no_results]

    def click(scene, corner, text, event: gr.SelectData):
        if scene.video is None:
            return show(scene)
        point = tuple(event.index)
        if corner is None:
            return show(scene.mark(None).say(text), point)
        return draw(scene, corner, point, text)

    def drag(scene, corners, text):
        if scene.video is None:
            return show(scene)
        x0, y0, x1, y1 = (int(value) for value in corners.split())
        return draw(scene, (x0, y0), (x1, y1), text)

    def draw(scene, first, second, text):
        scene = scene.say(text)
        try:
            return show(scene.mark(box_from_corners(first, second)))
        except Refused as refusal:
            gr.Warning(str(refusal), title="No box yet")
            return show(scene.mark(None))

    def type_box(scene, *values):
        """Outputs: scene, corner, image. A box that is not complete is not drawn, but is not a mistake yet."""
        if scene.video is None:
            return [gr.skip(), None, gr.skip()]
        try:
            scene = scene.mark(check_typed_box(values, scene.video.frame_size))
        except Refused:
            scene = scene.mark(None)
        return [scene, None, scene.drawing()]

    def find(scene, text):
        if scene.video is None:
            raise Refused(NO_VIDEO)
        return show(scene.say(text).mark(detector.find(scene.image, text)))

    def turn(scene, frame, text):
        return show(scene.say(text).turn_to(int(frame)))

    def choose(scene, target, text):
        return show(scene.say(text).choose(target))

    def add(scene, text, *values):
        return show(with_typed(scene.say(text), values).add_target())

    def remove(scene):
        return show(scene.remove_target())

    def start_over(scene):
        return show(Scene() if scene.video is None else Scene.of(scene.video))

    def with_typed(scene, values):
        """The scene with the box in the four fields. Raises `Refused` without a video, and for an invalid box."""
        if scene.video is None:
            raise Refused(NO_VIDEO)
        if all(value is None for value in values):
            return scene
        return scene.mark(check_typed_box(values, scene.video.frame_size))

    def track(scene, text, *values, request: gr.Request, report):
        scene = with_typed(scene.say(text), values)
        scene.starts()  # refuses what cannot be tracked, before the last results are deleted
        if not all(scene.texts.values()):
            gr.Info('Without a sentence the tracker reads "the target"; a better one helps.')
        result = track_video(shared, scene, folders.renew(request.session_hash), limits, report)
        names, seconds = list(result.boxes), 1 / scene.video.fps
        points = [
            (box["frame"] * seconds, box["score"], name)
            for name, results in result.boxes.items()
            for box in results
            if box["score"] < 1  # tracked, not given
        ]
        colors = {name: f"rgb{color}" for name, color in scene.colors().items()}
        plot = gr.update(
            value=pd.DataFrame(points, columns=["seconds", "confidence", "target"]), visible=len(points) > 1,
            color="target" if len(names) > 1 else None, color_map=colors if len(names) > 1 else None,
        )  # fmt: skip
        files = [gr.update(value=str(path), visible=True) for path in (result.csv, result.json)]
        shown = show(replace(scene, tracked=result.boxes))
        return [*shown, str(result.video), summarise(result, scene.video), plot, *files]

    def track_all(scene, text, x, y, w, h, request: gr.Request, progress=gr.Progress()):  # noqa: B008
        report = partial(progress, desc="tracking", unit="frames")
        try:
            return track(scene, text, x, y, w, h, request=request, report=lambda *done: report(done))
        except Refused as refusal:
            gr.Warning(str(refusal), title="Not yet")
            return [*[gr.skip()] * len(show(Scene())), *no_results]

    def correct(scene, text, x, y, w, h, request: gr.Request, progress=gr.Progress()):  # noqa: B008
        if x is None:
            gr.Warning(
                f"There is no box for target {scene.target} in frame {scene.frame} yet. Draw it where the target "
                "really is; the tracker continues from there.",
                title="Not yet",
            )
            return [gr.skip()] * (len(show(Scene())) + len(no_results))
        return track_all(scene, text, x, y, w, h, request, progress)

    def leave(request: gr.Request):
        folders.remove(request.session_hash)

    quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(title="PJVLT tracker", analytics_enabled=False, delete_cache=(600, KEEP_SECONDS)) as page:
        scene, corner = gr.State(Scene()), gr.State(None)
        gr.Markdown(
            "# Follow things through a video\n"
            "Show the tracker a target once, with a box and a sentence; it finds it in every later frame."
        )
        with gr.Row():
            with gr.Column(min_width=280):
                gr.Markdown(f"### 1. Video\n{limits}".replace("\nup", "\nUp") + ". Deleted an hour later.")
                upload = gr.File(label="Video", file_types=["video"], elem_id="upload", height=120)
                with gr.Row(elem_id="examples"):
                    buttons = [gr.Button(f"Example: “{example.text}”", size="sm") for example in examples]
                gr.Markdown("### 2. Sentence")
                text = gr.Textbox(
                    label="What is the target?", placeholder="white dog on the left", elem_id="sentence", max_lines=3
                )
                gr.Markdown("### 3. Box\nDrag from one corner of the target to the opposite one, or click both.")
                image = gr.Image(
                    show_label=False, interactive=False, format="png", buttons=[], elem_id="frame", height=340,
                    alt_text="frame of the video",
                )  # fmt: skip
                drawn, corners = gr.Button(elem_id="drawn"), gr.Textbox(visible=False)  # how DRAG calls `drag`
                number = gr.Slider(
                    0, 1, 0, step=1, label="Frame", visible=False, elem_id="number", buttons=[],
                    info="Usually the first; another one for a target that appears later, or to correct a result.",
                )  # fmt: skip
                with gr.Row(elem_id="numbers"):
                    labels = {"x": "x", "y": "y", "w": "width", "h": "height"}
                    numbers = [
                        gr.Number(None, label=label, precision=0, elem_id=f"box-{name}")
                        for name, label in labels.items()
                    ]
                targets = gr.Radio([], label="Targets", visible=False, elem_id="targets")
                with gr.Row():
                    by_words = gr.Button("Find it by words", size="sm", min_width=120, elem_id="find")
                    more = gr.Button("Add another target", size="sm", min_width=120, elem_id="more")
                    less = gr.Button("Remove this target", size="sm", min_width=120, visible=False, elem_id="less")
                    again = gr.Button("Start over", size="sm", min_width=120)
                go = gr.Button("Track", variant="primary", elem_id="track")
                correction = gr.Button("Correct here, and track again", visible=False, elem_id="correct")
            with gr.Column(min_width=280):
                gr.Markdown("### 4. Result\nThe video with the targets' boxes, and the confidence in every frame.")
                answer = gr.Video(show_label=False, interactive=False, elem_id="result", height=400)
                summary = gr.Markdown(elem_id="summary")
                plot = gr.LinePlot(
                    no_points, x="seconds", y="confidence", y_lim=[0, 1], height=200, visible=False, elem_id="plot",
                    x_title="seconds", y_title="confidence", show_label=False, buttons=[],
                )  # fmt: skip
                with gr.Row():
                    as_csv = gr.DownloadButton("Boxes as CSV", visible=False, elem_id="csv")
                    as_json = gr.DownloadButton("Boxes as JSON", visible=False, elem_id="json")
        results = [answer, summary, plot, as_csv, as_json]
        shown = [scene, corner, image, *numbers, text, number, targets, less, correction]
        loaded = [upload, *shown, *results]
        upload.upload(load, upload, loaded, show_progress_on=image, api_visibility="private")
        upload.clear(lambda: load(None), None, loaded, **quick)
        for button, example in zip(buttons, examples, strict=True):
            button.click(lambda example=example: load_example(example), None, loaded, **quick)
        image.select(click, [scene, corner, text], shown, **quick)
        js = "(scene, corners, text) => [scene, window.drawnCorners, text]"
        drawn.click(warned(drag), [scene, corners, text], shown, js=js, **quick)
        typed = [number.input for number in numbers]  # one event for all four, so that the last input is drawn last
        gr.on(typed, type_box, [scene, *numbers], [scene, corner, image], trigger_mode="always_last", **quick)
        number.input(warned(turn), [scene, number, text], shown, trigger_mode="always_last", **quick)
        targets.input(warned(choose), [scene, targets, text], shown, **quick)
        more.click(warned(add), [scene, text, *numbers], shown, **quick)
        less.click(warned(remove), scene, shown, **quick)
        by_words.click(
            warned(find), [scene, text], shown, concurrency_limit=1, show_progress_on=image, api_visibility="private"
        )
        again.click(start_over, scene, shown, **quick)
        for button, act in ((go, track_all), (correction, correct)):
            button.click(
                act, [scene, text, *numbers], [*shown, *results], concurrency_limit=1, concurrency_id="track",
                show_progress_on=answer, scroll_to_output=True, api_visibility="private",
            )  # fmt: skip
        page.load(None, js=DRAG)
        page.unload(leave)
    return page.queue(max_size=20, default_concurrency_limit=4)


def import_gradio():
    """Import Gradio with its usage reports switched off. Raises `ImportError` that names our extra."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ImportError('the page needs Gradio: pip install "pjvlt[demo]"') from error
    return gradio


def launch(page, limits: Limits, port: int | None) -> None:
    """Serve the page until Ctrl-C; on this machine only, unless GRADIO_SERVER_NAME says otherwise."""
    gr = import_gradio()
    local = ["system-ui", "sans-serif"]
    page.launch(
        server_port=port,
        max_file_size=f"{limits.megabytes}mb",
        theme=gr.themes.Default(font=local, font_mono=["ui-monospace", "monospace"]),
        css=CSS,
        footer_links=[],
        ssr_mode=False,
        share=False,
    )


def main(argv: list[str] | None = None) -> None:
    from modeling_pjvlt.detection_pjvlt import DETECTOR
    from modeling_pjvlt.signals import terminations

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", metavar="PATH_OR_REPO", help="checkpoint folder or Hub repository (default: the bundled one)")
    add(
        "--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="default: the first of cuda, mps, cpu"
    )
    add(
        "--detector",
        default=DETECTOR,
        metavar="PATH_OR_REPO",
        help="finds a box by words, as in pjvlt-track (default: %(default)s)",
    )
    add("--port", type=int, help="default: GRADIO_SERVER_PORT, or the first free one from 7860")
    add("--max_seconds", type=float, default=Limits.seconds, help="longest video (default: %(default)s)")
    add("--max_side", type=int, default=Limits.side, help="longest side of a frame, in pixels (default: %(default)s)")
    args = parser.parse_args(argv)
    if not (args.max_seconds > 0 and args.max_side > 0):
        parser.error("--max_seconds and --max_side must be above 0")
    for number in terminations():
        signal.signal(number, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="pjvlt-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "cache")
        try:
            import_gradio()
            from modeling_pjvlt import DEFAULT_CHECKPOINT
            from modeling_pjvlt.cli.track import load_session

            shared = load_session(args.model or DEFAULT_CHECKPOINT, args.device, "float32")
        except (ImportError, ValueError, OSError) as error:
            parser.error(" ".join(str(error).split()))
        limits = Limits(args.max_seconds, args.max_side)
        results, detector = ResultFolders(Path(folder) / "results"), Detector(args.detector, shared.model.device)
        page = build(shared, limits, draw_examples(Path(folder)), results, detector)
        launch(page, limits, args.port)


if __name__ == "__main__":
    main()
