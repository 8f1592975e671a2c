"""What the pages show works: Python runs, commands have arguments that their parsers know, links and files exist.

Python blocks of a page run in order in one namespace, as in a notebook, beside a procedural `clip.mp4` and a dataset
`my-data`. A block whose fence says `no-run` is only compiled.
"""

import argparse
import re
import runpy
import shlex
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from modeling_pjvlt.data.synthetic.procedural import ProceduralClip
from modeling_pjvlt.video_writer_pjvlt import VideoWriter

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "scripts/README.md", "model_card/benchmarks.md"]
LINKED = sorted(
    str(path.relative_to(ROOT)) for folder in (".", "scripts", "model_card") for path in ROOT.glob(f"{folder}/*.md")
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LAUNCHERS = ("accelerate", "torchrun")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[tuple[str, str]]:
    """(what the fence says after the language, code) of each block."""
    return re.findall(rf"^```{language}([^\n]*)\n(.*?)^```$", read(page), re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """The lines of all bash blocks, continued lines joined."""
    lines = "".join(code.replace("\\\n", " ") for _, code in blocks(page, "bash")).splitlines()
    return [line for line in lines if line.strip()]


class Parsed(Exception):
    """The arguments were understood; what they ask for is not done."""


def parse_only(words: list[str], monkeypatch) -> None:
    """Hand a command's words to the parser that they are meant for. Ends the program where it does not know them."""
    name, *arguments = words
    if name in LAUNCHERS:
        module, *arguments = arguments[arguments.index("-m") + 1 :]
        entrance = f"{module}:main"
    else:
        entrance = PROJECT["scripts"].get(name, "")
    if entrance.startswith("modeling_pjvlt.cli.train"):  # the recipe and the fields are checked, too
        from modeling_pjvlt.training.command_line import parse_arguments

        assert parse_arguments(arguments).output_dir
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, *given, **options):
        parse(parser, *given, **options)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(Parsed):
        if entrance:
            module, function = entrance.split(":")
            getattr(import_module(module), function)(arguments)
        else:
            assert name == "python", f"{name} is no command of this package"
            monkeypatch.syspath_prepend(str(ROOT / Path(arguments[0]).parent))
            monkeypatch.setattr(sys, "argv", arguments)
            runpy.run_path(arguments[0], run_name="__main__")


@pytest.mark.parametrize(("page", "command"), [(page, line) for page in PAGES for line in commands(page)])
def test_command_is_understood(page, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command, comments=True)
    if words[:2] == ["pip", "install"]:
        extras = {extra for group in re.findall(r"\[(.+?)\]", command) for extra in group.split(",")}
        assert extras <= PROJECT["optional-dependencies"].keys()
    elif words[0] == "make":
        assert set(words[1:]) <= set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))
    elif words[0] != "git":
        parse_only(words, monkeypatch)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with `clip.mp4` and a dataset `my-data`."""
    clip = ProceduralClip(3, 4)
    images = tmp_path / "my-data" / "train"
    images.mkdir(parents=True)
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for index in range(len(clip)):
            writer.write(clip.frame(index))
    Image.fromarray(clip.frame(0)).save(images / "0001.jpg")
    (images / "metadata.csv").write_text(
        "file_name,sequence,frame,x,y,w,h,text\n0001.jpg,walk,0,120,64,90,70,white dog on the left\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_runs(page, place, isolated_cache, capsys):
    namespace = {"__name__": "__main__"}
    for note, code in blocks(page, "python"):
        compiled = compile(code, page, "exec")
        if "no-run" not in note:
            exec(compiled, namespace)
    if page == "README.md":
        assert (place / "dog.csv").read_text().count("\n") == 5  # a header and four frames
        assert (place / "dog.mp4").stat().st_size > 0
        assert {"dog", "boy"} <= set(capsys.readouterr().out.split())


def test_front_page_is_short():
    assert len(read("README.md").splitlines()) <= 200


@pytest.mark.parametrize("page", LINKED)
def test_links_lead_somewhere(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        path, _, heading = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        linked = folder / path if path else ROOT / page
        assert linked.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("page", PAGES)
def test_files_named_exist(page):
    for path in set(
        re.findall(r"\b(?:scripts|model_card|modeling_pjvlt)/[\w./-]+\.(?:py|yaml|md|ipynb)\b", read(page))
    ):
        assert (ROOT / path).is_file(), path
