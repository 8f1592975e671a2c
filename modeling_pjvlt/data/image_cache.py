"""Decoded images that a process keeps, up to a number of bytes."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

CACHE_BYTES = 2**30


class ImageCache:
    """Images by number; the least recently used ones are dropped while all together are larger than the limit.

    The last image that was read stays, however large it is. Iterating gives the numbers, the oldest use first.

    Args:
        limit: bytes.
        size: the bytes of an image; a function that can be pickled, as workers that `spawn` need it.
    """

    def __init__(self, limit: int, size: Callable[[Any], int]):
        self.limit, self.size = limit, size
        self._images: OrderedDict[int, Any] = OrderedDict()
        self._bytes = 0

    def __iter__(self) -> Iterator[int]:
        return iter(self._images)

    def get(self, number: int, read: Callable[[], Any]) -> Any:
        """The image of that number, which `read` returns if it is not there. Raises what `read` raises."""
        if number in self._images:
            self._images.move_to_end(number)
            return self._images[number]
        image = self._images[number] = read()
        self._bytes += self.size(image)
        while self._bytes > self.limit and len(self._images) > 1:
            self._bytes -= self.size(self._images.popitem(last=False)[1])
        return image


__all__ = ["CACHE_BYTES", "ImageCache"]
