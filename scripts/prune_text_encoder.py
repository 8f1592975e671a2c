"""Make a smaller BERT for a small tracker: fewer layers, and only the tokens that some sentences use.

    python scripts/prune_text_encoder.py sentence-transformers/all-MiniLM-L6-v2 --sentences nlp.tsv boxes.jsonl \
      --num_layers 2 --output_dir backbones/minilm-2-layers

Layer k of the small model is layer k of the large one. A word without a token is split into pieces, down to letters,
whose tokens are always kept. Sentences come from text files (each tab-separated text without digits counts) and from
the phrases, categories and supercategories of `.jsonl` files. The words of the procedural clips are added.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer, BertTokenizer

from modeling_pjvlt.command_parser import new_folder
from modeling_pjvlt.data.synthetic.procedural_text import vocabulary
from modeling_pjvlt.files_pjvlt import replacing_folder
from modeling_pjvlt.sentences_pjvlt import MAX_WORDS


def read_sentences(path: Path) -> list[str]:
    """All sentences, phrases and categories of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix != ".jsonl":
        cells = [cell.strip() for line in lines for cell in line.split("\t")]
        return [cell for cell in cells if cell and not any(character.isdigit() for character in cell)]
    objects = [o for line in lines if line.strip() for o in json.loads(line)["objects"]]
    texts = [[*o.get("phrases", []), o.get("category"), o.get("supercategory")] for o in objects]
    return [text for of_object in texts for text in of_object if text]


def used_tokens(tokenizer, sentences: list[str]) -> list[int]:
    """Ids of the tokens that are kept, in order: special ones, single letters, and those of the sentences."""
    vocabulary_ids = tokenizer.get_vocab()
    kept = set(tokenizer.all_special_ids)
    kept |= {i for token, i in vocabulary_ids.items() if len(token.removeprefix("##")) == 1 and token.isascii()}
    for sentence in sentences:
        kept.update(tokenizer(sentence)["input_ids"])
    return sorted(kept)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a BERT with its tokenizer: a folder or a Hub id")
    parser.add_argument("--sentences", type=Path, nargs="+", required=True, help="text, .tsv or .jsonl files")
    parser.add_argument("--num_layers", type=int, default=2, help="layers to keep, from the first (default: 2)")
    parser.add_argument("--output_dir", type=new_folder, required=True, help="must be absent or empty")
    args = parser.parse_args(argv)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModel.from_pretrained(args.model, add_pooling_layer=False, use_safetensors=True)
    sentences = vocabulary() + [text for path in args.sentences for text in read_sentences(path)]
    kept = used_tokens(tokenizer, sentences)
    tokens = tokenizer.convert_ids_to_tokens(kept)
    with torch.no_grad():
        words = model.embeddings.word_embeddings
        words.weight = torch.nn.Parameter(words.weight[kept].clone())
        positions = model.embeddings.position_embeddings
        positions.weight = torch.nn.Parameter(positions.weight[:MAX_WORDS].clone())
    model.encoder.layer = model.encoder.layer[: args.num_layers]
    config = model.config
    config.vocab_size, config.num_hidden_layers, config.max_position_embeddings = len(kept), args.num_layers, MAX_WORDS
    config.pad_token_id = tokens.index(tokenizer.pad_token)
    small = BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}, do_lower_case=True)
    small.model_max_length = MAX_WORDS
    with replacing_folder(args.output_dir) as partial:
        model.save_pretrained(partial)
        small.save_pretrained(partial)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(
        f"{args.output_dir}: {len(kept)} of {len(tokenizer)} tokens, {args.num_layers} layers, {size:.1f} M parameters"
    )


if __name__ == "__main__":
    main()
