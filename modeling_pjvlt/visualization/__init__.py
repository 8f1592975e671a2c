"""Images of what the tracker does."""

from .drawing import contact_sheet, contact_strip, draw_box

__all__ = ["contact_sheet", "contact_strip", "draw_box"]
