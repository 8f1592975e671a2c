"""A window that shows frames as they arrive. It uses tkinter, which comes with most Pythons."""

import numpy as np
from PIL import Image

SHARE = 0.9  # of the screen, at most


class Window:
    """Shows one frame after the other, shrunk to fit the screen where needed. A context manager.

    Args:
        title: of the window.

    Attributes:
        is_closed: whether the user closed the window, or pressed q or Escape in it.

    Raises:
        OSError: no window can be opened here, as on a machine without a screen.
        ImportError: this Python lacks tkinter.
    """

    def __init__(self, title: str):
        try:
            import tkinter

            from PIL import ImageTk
        except ImportError as error:
            raise ImportError(
                "a window needs tkinter, which this Python lacks: apt install python3-tk, or brew install python-tk"
            ) from error
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise OSError(f"no window can be opened here ({error}); showing frames needs a screen") from error
        self.is_closed = False
        self._make_image, self._image = ImageTk.PhotoImage, None
        self._room = int(SHARE * self._root.winfo_screenwidth()), int(SHARE * self._root.winfo_screenheight())
        self._label = tkinter.Label(self._root)
        self._label.pack()
        self._root.title(title)
        self._root.protocol("WM_DELETE_WINDOW", self._close)
        for key in ("q", "<Escape>"):
            self._root.bind(key, self._close)

    def __enter__(self) -> "Window":
        return self

    def __exit__(self, *error) -> None:
        self._root.destroy()

    def write(self, frame: np.ndarray, time: float | None = None) -> None:
        """Show a frame: RGB uint8, (height, width, 3). It is shown at once, whatever its `time`."""
        image = Image.fromarray(frame)
        image.thumbnail(self._room)
        self._image = self._make_image(image, master=self._root)  # kept here, because tkinter keeps no reference
        self._label.configure(image=self._image)
        self._root.update()

    def _close(self, *event) -> None:
        self.is_closed = True


__all__ = ["Window"]
