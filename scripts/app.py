"""A web page for the tracker: `python scripts/app.py`, then open the address that it prints.

Upload a video, write a sentence, draw a box on the first frame or let a detector find it by the words, and watch the
target being followed. `app_tracking.py` beside it does the work. For a Hugging Face Space: `sdk: gradio`,
`app_file: scripts/app.py`, and the dependencies of `pjvlt[demo]` in its requirements.txt.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from app_examples import Example, draw_examples
from app_tracking import (
    Detector,
    Limits,
    Refused,
    ResultFolders,
    box_from_corners,
    check_typed_box,
    mark_frame,
    open_upload,
    summarise,
    track_video,
)

# In a Space the package is not installed but lies beside this folder; an installed one comes first.
sys.path.append(str(Path(__file__).resolve().parent.parent))

KEEP_SECONDS = 3600

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

# Draws a box while the pointer is down on the frame, and hands over its corners; a click stays a corner.
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

    hint = "Drag from one corner of the target to the opposite one, or click both."
    no_points = pd.DataFrame({"seconds": [], "confidence": []})
    no_results = [None, "", gr.update(value=no_points, visible=False)]
    no_results += [gr.update(value=None, visible=False), gr.update(value=None, visible=False)]

    def load(path):
        """The outputs of `loaded` for a new video, or for none."""
        empty = [None, None, None, None, None, None, None]
        if path is None:
            return [None, *empty, *no_results]
        try:
            video = open_upload(path, limits)
        except Refused as refusal:
            gr.Warning(str(refusal), title="This video cannot be used")
            return [None, *empty, *no_results]
        return [gr.skip(), video, None, video.first_frame, *empty[3:], *no_results]

    def load_example(example):
        video = open_upload(example.path, limits)
        marked = mark_frame(video.first_frame, box=example.box)
        return [None, video, None, marked, *example.box, *no_results, example.text]

    def click(video, corner, event: gr.SelectData):
        """Outputs: corner, image, x, y, w, h."""
        if video is None:
            return [gr.skip()] * 6
        point = tuple(event.index)
        if corner is None:
            return [point, mark_frame(video.first_frame, corner=point), None, None, None, None]
        return show_box(video, corner, point)

    def drag(video, corners):
        """Outputs: corner, image, x, y, w, h."""
        if video is None:
            return [gr.skip()] * 6
        x0, y0, x1, y1 = (int(value) for value in corners.split())
        return show_box(video, (x0, y0), (x1, y1))

    def show_box(video, first, second):
        try:
            box = box_from_corners(first, second)
        except Refused as refusal:
            gr.Warning(str(refusal), title="No box yet")
            return [None, video.first_frame, None, None, None, None]
        return [None, mark_frame(video.first_frame, box=box), *box]

    def show_typed(video, *values):
        """Outputs: corner, image. Half a box is not drawn, and not yet a mistake."""
        if video is None:
            return [None, gr.skip()]
        try:
            return [None, mark_frame(video.first_frame, box=check_typed_box(values, video.frame_size))]
        except Refused:
            return [None, video.first_frame]

    def find(video, text):
        """Outputs: corner, image, x, y, w, h."""
        try:
            if video is None:
                raise Refused("There is no video yet. Upload one or pick an example.")
            box = detector.find(video, text)
        except Refused as refusal:
            gr.Warning(str(refusal), title="Not found")
            return [gr.skip()] * 6
        return [None, mark_frame(video.first_frame, box=box), *box]

    def start_over(video):
        return [None, None if video is None else video.first_frame, None, None, None, None]

    def track(video, text, x, y, w, h, request: gr.Request, progress=gr.Progress()):  # noqa: B008
        if video is None:
            return refuse("There is no video yet. Upload one or pick an example.")
        try:
            box = check_typed_box((x, y, w, h), video.frame_size)
            if not (text or "").strip():
                gr.Info('Without a sentence the tracker reads "the target"; a better one helps.')
            folder = folders.renew(request.session_hash)
            result = track_video(
                shared, video, box, text, folder, limits, lambda *done: progress(done, desc="tracking", unit="frames")
            )
        except Refused as refusal:
            return refuse(str(refusal))
        points = [(index / video.fps, row[4]) for index, row in enumerate(result.boxes)][1:]
        plot = gr.update(value=pd.DataFrame(points, columns=["seconds", "confidence"]), visible=len(points) > 1)
        files = [gr.update(value=str(path), visible=True) for path in (result.csv, result.json)]
        return [str(result.video), summarise(result, video), plot, *files]

    def refuse(message):
        gr.Warning(message, title="Not yet")
        return no_results

    def leave(request: gr.Request):
        folders.remove(request.session_hash)

    quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(title="PJVLT tracker", analytics_enabled=False, delete_cache=(600, KEEP_SECONDS)) as page:
        video, corner = gr.State(None), gr.State(None)
        gr.Markdown(
            "# Follow one thing through a video\n"
            "Show the tracker its target once, with a box and a sentence; it finds it in every later frame."
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
                gr.Markdown(f"### 3. Box\n{hint}")
                frame = gr.Image(
                    show_label=False, interactive=False, format="png", buttons=[], elem_id="frame", height=340,
                    alt_text="first frame",
                )  # fmt: skip
                drawn, corners = gr.Button(elem_id="drawn"), gr.Textbox(visible=False)  # how DRAG reaches `drag`
                with gr.Row(elem_id="numbers"):
                    labels = {"x": "x", "y": "y", "w": "width", "h": "height"}
                    numbers = [
                        gr.Number(None, label=label, precision=0, elem_id=f"box-{name}")
                        for name, label in labels.items()
                    ]
                with gr.Row():
                    by_words = gr.Button("Find it by words", size="sm", min_width=120, elem_id="find")
                    again = gr.Button("Start over with the box", size="sm", min_width=120)
                go = gr.Button("Track", variant="primary", elem_id="track")
            with gr.Column(min_width=280):
                gr.Markdown("### 4. Result\nThe video with the target's box, and its confidence in every frame.")
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
        loaded = [upload, video, corner, frame, *numbers, *results]
        upload.upload(load, upload, loaded, show_progress_on=frame, api_visibility="private")
        upload.clear(lambda: load(None), None, loaded, **quick)
        for button, example in zip(buttons, examples, strict=True):
            button.click(lambda example=example: load_example(example), None, [*loaded, text], **quick)
        frame.select(click, [video, corner], [corner, frame, *numbers], **quick)
        drawn.click(
            drag, [video, corners], [corner, frame, *numbers], js="video => [video, window.drawnCorners]", **quick
        )
        typed = [number.input for number in numbers]  # one event for all four, so that the last of them is drawn last
        gr.on(typed, show_typed, [video, *numbers], [corner, frame], trigger_mode="always_last", **quick)
        by_words.click(
            find, [video, text], [corner, frame, *numbers], concurrency_limit=1, show_progress_on=frame,
            api_visibility="private",
        )  # fmt: skip
        again.click(start_over, video, [corner, frame, *numbers], **quick)
        go.click(
            track, [video, text, *numbers], results, concurrency_limit=1, concurrency_id="track",
            show_progress_on=answer, scroll_to_output=True, api_visibility="private",
        )  # fmt: skip
        page.load(None, js=DRAG)
        page.unload(leave)
    return page.queue(max_size=20, default_concurrency_limit=4)


def import_gradio():
    """Gradio, told before its import to report nothing to anyone."""
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
    add("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="default: the fastest there is")
    add(
        "--detector",
        default=DETECTOR,
        metavar="PATH_OR_REPO",
        help="finds a box by words, as in pjvlt-track (default: %(default)s)",
    )
    add("--port", type=int, help="default: GRADIO_SERVER_PORT, or the first free one from 7860")
    add("--max_seconds", type=float, default=Limits.seconds, help="of a video (default: %(default)s)")
    add("--max_side", type=int, default=Limits.side, help="of a frame, in pixels (default: %(default)s)")
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
