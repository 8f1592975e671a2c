"""`pjvlt-train`: train or fine-tune a PJVLT from a recipe."""

import sys


def main(argv: list[str] | None = None) -> int:
    """Parse, train, say where the checkpoint is. Returns the exit code; 2 for a mistake of the user's."""
    from ..training.arguments import parse_arguments

    try:
        args = parse_arguments(argv)
        from ..training.trainer import train

        folder = train(args)
    except ModuleNotFoundError as error:
        print(f"pjvlt-train: error: training needs {error.name}: pip install 'pjvlt[train]'", file=sys.stderr)
        return 2
    except (ValueError, FileNotFoundError) as error:
        print(f"pjvlt-train: error: {error}", file=sys.stderr)
        return 2
    print(f"Last checkpoint: {folder}\nLoad it with PJVLTModel.from_pretrained({str(folder)!r}).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
