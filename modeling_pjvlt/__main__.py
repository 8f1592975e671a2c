"""`python -m modeling_pjvlt COMMAND …`: runs the commands when their scripts are not on the path."""

import sys
from importlib import import_module

from .command_parser import CommandParser, silent_when_piped

COMMANDS = {
    "track": ("track", "track targets through a video"),
    "train": ("train", "train or fine-tune a model"),
    "eval": ("evaluate", "evaluate a model on tracking datasets"),
    "convert": ("convert", "convert a benchmark's folder to a tracking dataset"),
    "convert-weights": ("convert_weights", "convert the published weights of another tracker to a model"),
    "export": ("export", "write a model as ONNX, OpenVINO or torch.export programs"),
}


@silent_when_piped
def main(argv: list[str] | None = None) -> int | None:
    """Run the command named by the first argument: `python -m modeling_pjvlt track …` is `pjvlt-track …`."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv and argv[0] in COMMANDS:
        return import_module(f".cli.{COMMANDS[argv[0]][0]}", __package__).main(argv[1:])
    parser = CommandParser(
        prog="python -m modeling_pjvlt", usage="python -m modeling_pjvlt {" + ",".join(COMMANDS) + "} ..."
    )
    parser.add_argument(
        "command", choices=COMMANDS, help="; ".join(f"{n}: {what}" for n, (_, what) in COMMANDS.items())
    )
    parser.parse_args(argv)
    return None


if __name__ == "__main__":
    sys.exit(main())
