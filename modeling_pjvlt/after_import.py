"""Run an action as soon as another package has been imported by anyone, without importing it here."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder


class AfterImport(MetaPathFinder):
    """Calls `action` once: when `awaited` has been imported, and no module of `own` is partly imported.

    Insert it at the beginning of `sys.meta_path`; it removes itself afterwards. It finds no modules itself, but only
    watches the loaders of the other finders.

    Args:
        awaited: the name of a package that is not imported yet.
        own: the name of the package whose modules `action` uses; one of them may be what imports `awaited`.
        action: a function without arguments.
    """

    def __init__(self, awaited: str, own: str, action: Callable[[], None]):
        self.awaited, self.own, self.action = awaited, own, action
        self.running = 0  # watched imports in progress

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
        """In this context the action is not called; the next watched import after it may call it."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def look(self) -> None:
        """Call the action if its conditions hold. Runs after each watched import."""
        if self.running == 0 and self.awaited in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            self.action()


class _WatchedLoader:
    """Wraps another loader and puts it back in its place when the module is loaded."""

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
