"""The plan of `reproduce_tables.py`: the settings that all variants share, and the paths of the results."""

import copy
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from table_variants import TINY_CLIPS, TINY_FRAMES, Variant, build_variants

from modeling_pjvlt.files_pjvlt import write_text

NOT_PRINTED = {"output_dir", "dataloader_num_workers", "tokenizer_name_or_path"}  # change no result


def fingerprint(value) -> str:
    """A hash of `value` (anything that JSON can hold) in twelve hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def write_json(path: Path, value) -> None:
    """Write a JSON file; a kill leaves the old file or the new one. Missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=2) + "\n")


@dataclass(frozen=True)
class Plan:
    """Settings that all variants of one call share.

    settings: fields of TrainArguments. folder: for all files. ours: whether to include variants that are not in the
    paper. For the base preset only: dataset, `lasot` or `got10k`; num_processes, for `accelerate launch`; scoring, the
    `protocol` and the file of `sentences` for `pjvlt-eval`.
    """

    preset: str
    settings: dict
    folder: Path
    dataset: str | None = None
    num_processes: int = 1
    scoring: dict | None = None
    ours: bool = False

    @cached_property
    def depth(self) -> int:
        from modeling_pjvlt import PJVLTConfig

        return PJVLTConfig(**copy.deepcopy(self.settings.get("model_config") or {})).num_hidden_layers

    @cached_property
    def variants(self) -> dict[str, Variant]:
        return build_variants(self.depth)

    def settings_of(self, variant: Variant, seed: int) -> dict:
        """Fields of TrainArguments of one variant, for a new run."""
        settings = copy.deepcopy(self.settings)
        settings["model_config"] = {**(settings.get("model_config") or {}), **variant.overrides}
        return {**settings, "seed": seed}

    def protocol(self) -> str:
        """Fingerprint of the settings that two results must share to be compared."""
        shared = {name: value for name, value in self.settings.items() if name not in {*NOT_PRINTED, "seed"}}
        scoring = self.scoring or [TINY_CLIPS, TINY_FRAMES]
        return fingerprint([self.preset, shared, scoring])

    def fingerprint(self, variant: Variant, seed: int) -> str:
        """A hash of every setting that can change the result, those of the variant it starts from included."""
        start = self.fingerprint(self.variants[variant.start], seed) if variant.start else None
        return fingerprint([self.protocol(), variant.overrides, seed, start])

    def result_path(self, name: str, seed: int) -> Path:
        return self.folder / "variants" / f"{name}-seed{seed}.json"

    def run_folder(self, variant: Variant, seed: int, kind: str = "runs") -> Path:
        return self.folder / kind / f"{variant.name}-seed{seed}-{self.fingerprint(variant, seed)}"

    def finished(self, variant: Variant, seed: int) -> dict | None:
        """The result of a variant, if it was trained with these settings."""
        path = self.result_path(variant.name, seed)
        result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return result if result and result["fingerprint"] == self.fingerprint(variant, seed) else None
