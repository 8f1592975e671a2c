"""The window of `--show`, on a screen that is made up: most machines that run tests have none."""

from types import SimpleNamespace

import numpy as np
import pytest

from modeling_pjvlt.visualization.window import Window

tkinter = pytest.importorskip("tkinter")


class Root:
    """Stands in for tkinter's `Tk` on a screen of 200 x 100 pixels."""

    def __init__(self):
        self.handlers, self.updates, self.is_open = {}, 0, True

    def winfo_screenwidth(self):
        return 200

    def winfo_screenheight(self):
        return 100

    def title(self, text):
        self.text = text

    def protocol(self, name, handler):
        self.handlers[name] = handler

    def bind(self, key, handler):
        self.handlers[key] = handler

    def update(self):
        self.updates += 1

    def destroy(self):
        self.is_open = False


@pytest.fixture
def screen(monkeypatch):
    """The root window and the images that were shown."""
    root, images = Root(), []
    monkeypatch.setattr(tkinter, "Tk", lambda: root)
    label = SimpleNamespace(pack=lambda: None, configure=lambda image: images.append(image))
    monkeypatch.setattr(tkinter, "Label", lambda root: label)
    monkeypatch.setattr("PIL.ImageTk.PhotoImage", lambda image, master: image)
    return SimpleNamespace(root=root, images=images)


def test_frames_are_shown_smaller_than_the_screen(screen):
    with Window("a dog") as window:
        window.write(np.full((40, 60, 3), 90, np.uint8))
        window.write(np.full((400, 400, 3), 90, np.uint8), 0.5)
    assert [image.size for image in screen.images] == [(60, 40), (90, 90)]
    assert screen.root.updates == 2 and screen.root.text == "a dog" and not screen.root.is_open


@pytest.mark.parametrize("how", ["WM_DELETE_WINDOW", "q", "<Escape>"])
def test_window_is_closed_by_its_button_and_by_keys(screen, how):
    with Window("a dog") as window:
        assert not window.is_closed
        screen.root.handlers[how]()
        assert window.is_closed
