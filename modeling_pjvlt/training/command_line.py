"""`pjvlt-train`'s arguments: a recipe is a YAML file of fields of `TrainArguments`; the command line overrides it."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from transformers import HfArgumentParser

from ..command_parser import CommandParser
from .arguments import TrainArguments

RECIPES = Path(__file__).parent / "recipes"  # in an installed package, a copy of scripts/recipes


def find_recipe(path: str) -> str:
    """A recipe's file: the one at `path`, or the one of that name in the installed package.

    Raises `FileNotFoundError`.
    """
    for place in (Path(path), RECIPES / Path(path).name):
        if place.is_file():
            return str(place)
    raise FileNotFoundError(f"--config: no recipe at {path}")


def read_recipe(path: str) -> dict:
    """The fields of a YAML recipe. Raises `ValueError` naming the first one that does not exist."""
    import yaml

    path = find_recipe(path)
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"--config: {path} must hold `name: value` lines.")
    known = [f.name for f in fields(TrainArguments)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"--config: {path} has the unknown field {unknown[0]!r}; known are {', '.join(known)}.")
    return values


class _Parser(CommandParser, HfArgumentParser):
    """A parser for the fields of a dataclass, with the error messages of the other commands."""


def parse_arguments(argv: list[str] | None = None) -> TrainArguments:
    """The fields of the recipe (`--config FILE`), overridden by the command line."""
    usage = "pjvlt-train --config RECIPE [--dataset_name NAME] [--output_dir FOLDER] [options]"
    parser = _Parser(TrainArguments, prog="pjvlt-train", usage=usage, description="Fine-tune or train a PJVLT.")
    parser.add_argument("--config", help="YAML recipe; every other flag overrides it.")
    argv = sys.argv[1:] if argv is None else list(argv)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", nargs="?")  # without a file, the other parser says what is missing
    path = first.parse_known_args(argv)[0].config
    recipe = {} if path is None else read_recipe(path)
    for action in parser._actions:
        if action.dest in recipe:
            action.default, action.required = recipe[action.dest], False
    namespace = vars(parser.parse_args(argv))
    namespace.pop("config")
    # On the command line, --learning_rate overrides both rates of the recipe.
    if namespace["learning_rate"] != recipe.get("learning_rate"):
        for name in ("encoder_learning_rate", "head_learning_rate"):
            if namespace[name] == recipe.get(name):
                namespace[name] = None
    return TrainArguments(**namespace)
