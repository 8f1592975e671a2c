"""Put the trained body of one checkpoint into another one that has another stem or another BERT.

    python scripts/graft_checkpoint.py outputs/pjvlt-small-words --body pjvlt-tiny --output_dir outputs/start

The body is everything of one shape in both besides stem, patch embedding and text encoder: vision layers, which must
fit, SAIELs, CCPILs and the head. SAIEL's maps of the tokens stay where the BERTs differ in width. Config, processor
and tokenizer stay, too. The two parts have to get used to each other: train the result.
"""

import argparse

import torch

from modeling_pjvlt import PJVLTModel, PJVLTProcessor
from modeling_pjvlt.command_parser import new_folder
from modeling_pjvlt.files_pjvlt import replacing_folder
from modeling_pjvlt.run_folders import find_checkpoint

KEPT = ("text_encoder.", "embeddings.stem.", "embeddings.patch", "embeddings.projection")


def graft(model: PJVLTModel, body: PJVLTModel) -> list[str]:
    """Copy the body's weights into the model, in place; returns their names.

    Raises `ValueError` naming the first weight of a vision layer that has another shape.
    """
    own, given = model.state_dict(), body.state_dict()
    common = [name for name in own if not name.startswith(KEPT) and name in given]
    names = [name for name in common if own[name].shape == given[name].shape]
    for name in common:
        if ".vision." in name and name not in names:
            shapes = [list(weights[name].shape) for weights in (own, given)]
            raise ValueError(f"The vision layers differ: {name} is {shapes[0]} here and {shapes[1]} in the body.")
    model.load_state_dict({**own, **{name: given[name] for name in names}})
    return names


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="gives stem, patch embedding and text encoder: a folder or a Hub id")
    parser.add_argument("--body", required=True, help="gives the rest: a folder or a Hub id")
    parser.add_argument("--output_dir", type=new_folder, required=True, help="must be absent or empty")
    args = parser.parse_args(argv)
    checkpoint, body = find_checkpoint(args.checkpoint), find_checkpoint(args.body)
    model = PJVLTModel.from_pretrained(checkpoint, dtype=torch.float32)
    try:
        names = graft(model, PJVLTModel.from_pretrained(body, dtype=torch.float32))
    except ValueError as error:
        parser.error(str(error))
    with replacing_folder(args.output_dir) as partial:
        model.save_pretrained(partial)
        PJVLTProcessor.from_pretrained(checkpoint).save_pretrained(partial)
    print(f"{args.output_dir}: {len(names)} tensors of {args.body} in {args.checkpoint}")


if __name__ == "__main__":
    main()
