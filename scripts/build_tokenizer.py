"""Train the WordPiece tokenizer of a small PJVLT on tracking sentences and the words of the procedural clips.

    python scripts/build_tokenizer.py --sentences nlp.tsv classes.tsv --output_dir my-tokenizer

Each tab-separated text of a file counts as a sentence; texts with digits (names such as `car-17`) are left out.
"""

import argparse
from pathlib import Path

from tokenizers import BertWordPieceTokenizer
from transformers import BertTokenizer

from modeling_pjvlt.command_parser import new_folder
from modeling_pjvlt.data.synthetic.procedural_text import vocabulary
from modeling_pjvlt.files_pjvlt import replacing_folder


def read_sentences(path: Path) -> list[str]:
    """All tab-separated texts of a file without digits."""
    cells = [cell.strip() for line in path.read_text(encoding="utf-8").splitlines() for cell in line.split("\t")]
    return [cell for cell in cells if cell and not any(character.isdigit() for character in cell)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=Path, nargs="*", default=[], help="text or .tsv files")
    parser.add_argument("--vocab_size", type=int, default=4000, help="tokens, at most (default: %(default)s)")
    parser.add_argument("--output_dir", type=new_folder, required=True, help="must be absent or empty")
    args = parser.parse_args()
    sentences = [sentence for path in args.sentences for sentence in read_sentences(path)]
    sentences += vocabulary() * 20  # so that every procedural word is one token
    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(sentences, vocab_size=args.vocab_size, min_frequency=1, show_progress=False)
    tokenizer = BertTokenizer(vocab=trainer.get_vocab(), do_lower_case=True, model_max_length=40)
    with replacing_folder(args.output_dir) as partial:
        tokenizer.save_pretrained(partial)
    split = [word for word in vocabulary() if len(tokenizer.tokenize(word)) != 1]
    print(
        f"{len(sentences)} sentences, {len(tokenizer)} tokens, procedural words in several tokens: {split or 'none'}"
    )


if __name__ == "__main__":
    main()
