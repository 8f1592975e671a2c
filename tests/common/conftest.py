"""Make transformers' common tests importable as `transformers_tests`, or skip this folder where they were not fetched.

They are read from `.cache` (see `fetch.py`). Their source distribution holds the mixins but none of the tests of
generation and export and none of the continuous-integration helpers that the mixins import, so these are empty here.
"""

import importlib.util
import sys
import types
from pathlib import Path

import pytest

# By path, because a module named `fetch` on sys.path would be anyone's.
_spec = importlib.util.spec_from_file_location("pjvlt_common_fetch", Path(__file__).with_name("fetch.py"))
fetch = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fetch)

PACKAGE = "transformers_tests"
MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "order",
    "torch_compile_test",
)


class UnfetchedModule(pytest.Module):
    """A test module that is skipped as a whole, unimported."""

    def collect(self):
        pytest.skip("run `make test-common`", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    return None if fetch.is_fetched() else UnfetchedModule.from_parent(parent, path=module_path)


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: a marker of transformers' own tests")
    if fetch.is_fetched():
        make_importable(fetch.tests_folder())


def make_importable(folder: Path) -> None:
    """Register the package and empty stand-ins for what its modules import and the archive lacks."""

    def stand_in(name: str, **members) -> None:
        module = types.ModuleType(name)
        vars(module).update(members)
        sys.modules[name] = module

    stand_in(PACKAGE, __path__=[str(folder)])
    stand_in(f"{PACKAGE}.exporters", __path__=[])
    stand_in(f"{PACKAGE}.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
    stand_in(f"{PACKAGE}.generation", __path__=[])
    stand_in(f"{PACKAGE}.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
    stand_in("fetch_hub_objects_for_ci", url_to_local_path=lambda url: url)
