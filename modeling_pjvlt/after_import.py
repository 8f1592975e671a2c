"""Doing something as soon as another package has been imported, by whomever, without importing it for that."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder


class AfterImport(MetaPathFinder):
    """Calls `action` once: when `awaited` has been imported, and no module of `own` is half imported.

    For it belongs at the beginning of `sys.meta_path`, from where it then removes itself. It finds nothing itself; it
    only looks on while the other finders' loaders run.

    Args:
        awaited: the name of a package that is not imported yet.
        own: the name of the package whose modules `action` uses. One that imports `awaited` may be what sets it off.
    """

    def __init__(self, awaited: str, own: str, action: Callable[[], None]):
        self.awaited, self.own, self.action = awaited, own, action
        self.running = 0  # imports under way that are watched

    def find_spec(self, name, path=None, target=None):
        if name != self.awaited and not name.startswith(f"{self.own}."):
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _WatchedLoader(spec.loader, self)
        return spec

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within it nothing is done; the next watched import after it sets the action off."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def look(self) -> None:
        """A watched module has been imported: is it time?"""
        if self.running == 0 and self.awaited in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            self.action()


class _WatchedLoader:
    """Another loader, which it gives its place back to as soon as it is used."""

    def __init__(self, loader, watcher: AfterImport):
        self._loader, self._watcher = loader, watcher

    def __getattr__(self, name: str):
        return getattr(self._loader, name)

    def exec_module(self, module) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._watcher.running += 1
        try:
            self._loader.exec_module(module)
        finally:
            self._watcher.running -= 1
        self._watcher.look()


__all__ = ["AfterImport"]
