"""Fetch transformers' own common tests: the test folder of the source distribution of the installed version.

Run by `make test-common`. The files land in `.cache/transformers-<version>/`, which git ignores; a second run
downloads nothing. Everything comes through pip, from whatever package index it is set up to use.
"""

import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache"
NEEDED = ("test_modeling_common.py", "test_processing_common.py", "test_image_processing_common.py")


def tests_folder() -> Path:
    """Where the tests of the installed transformers are, or would be."""
    return CACHE / f"transformers-{importlib.metadata.version('transformers')}" / "tests"


def is_fetched() -> bool:
    """Whether all the files that we run are there."""
    return all((tests_folder() / name).is_file() for name in NEEDED)


def download_sdist(version: str, folder: Path) -> Path:
    """The source distribution of transformers `version`, downloaded by pip into `folder`.

    Raises `RuntimeError` with pip's own last words where that fails.
    """
    requirement = f"transformers=={version}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
    result = subprocess.run([*pip, "--dest", str(folder), requirement], capture_output=True, text=True)
    archives = sorted(folder.glob("transformers-*.tar.gz"))
    if result.returncode or len(archives) != 1:
        raise RuntimeError(
            f"pip could not download the source distribution of {requirement}:\n{result.stderr.strip()}"
        )
    return archives[0]


def unpack_tests(archive: Path, folder: Path) -> None:
    """Unpack the licence and the `tests` folder of `archive` into `folder`, without the archive's top folder.

    Raises `RuntimeError` where the archive lacks one of the files that we run.
    """
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            member.name = member.name.partition("/")[2]
            if member.name == "LICENSE" or member.name.startswith("tests/"):
                tar.extract(member, folder, filter="data")
    missing = [name for name in NEEDED if not (folder / "tests" / name).is_file()]
    if missing:
        raise RuntimeError(f"{archive.name} lacks {', '.join(missing)} in its folder `tests`.")


def fetch() -> Path:
    """Download and unpack unless that was done before; returns the folder of the tests."""
    target = tests_folder()
    if is_fetched():
        return target
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:  # on the same disk, so that the last step is one rename
        archive = download_sdist(importlib.metadata.version("transformers"), Path(scratch))
        unpack_tests(archive, Path(scratch) / "unpacked")
        shutil.rmtree(target.parent, ignore_errors=True)
        (Path(scratch) / "unpacked").rename(target.parent)
    return target


def main() -> None:
    """Command line: print the folder, or say in one paragraph why there is none."""
    try:
        print(fetch())
    except RuntimeError as error:
        sys.exit(f"tests/common: {error}")


if __name__ == "__main__":
    main()
