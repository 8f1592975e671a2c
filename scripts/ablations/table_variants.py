"""The variants of the paper's ablation tables, and the settings of the presets, for `reproduce_tables.py`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """One model to train. overrides: fields of PJVLTConfig. start: the variant whose trained weights it gets."""

    name: str
    overrides: dict
    start: str | None = None


@dataclass(frozen=True)
class Table:
    """One table. head: heading of the first column. rows: label in the first column, and name of the variant."""

    title: str
    head: str
    rows: list[tuple[str, str]]


PAPERS = ("2", "3", "4", "5", "6")
TABLES = (*PAPERS, "residual", "modulation")  # the last two are ours

PAPER_DEPTHS = (1, 3, 6, 9, 12)  # the rows of Table III


def build_variants(depth: int) -> dict[str, Variant]:
    """All variants of a model with `depth` vision layers, by name; no two are the same model."""
    variants = [
        Variant("none", {"fusion": "none"}),
        Variant("early", {"fusion": "early"}),
        Variant("late", {"fusion": "late"}),
        Variant("progressive", {"fusion": "progressive"}),
        *(Variant(f"last-{k}", {"num_fusion_layers": k}) for k in range(1, depth)),
        Variant("without-ccpil", {"use_ccm": False, "use_pim": False}),
        Variant("without-saiel", {"use_saiel": False}),
        Variant("sum", {"saiel_fusion": "sum"}),
        Variant("product", {"saiel_fusion": "product"}),
        Variant("without-pim", {"use_pim": False}),
        Variant("without-ccm", {"use_ccm": False}),
        Variant("residual", {"fusion_residual": True}),
        Variant("literal-on-none", {"fusion_residual": False}, start="none"),
        Variant("identity", {"modulation_init": "identity"}),
        Variant("zero", {"modulation_init": "zero"}),
        Variant("residual-on-none", {"fusion_residual": True}, start="none"),
    ]
    return {variant.name: variant for variant in variants}


def build_tables(depth: int, ours: bool = True) -> dict[str, Table]:
    """The tables by their name for `--table`; a variant may be in several.

    ours: table 3 has a row for each depth, not only the paper's five. A model less deep than the paper's always has
    a row for each.
    """
    depths = range(1, depth + 1) if ours or depth != PAPER_DEPTHS[-1] else PAPER_DEPTHS
    layers = [(f"last {k} of {depth}", f"last-{k}" if k < depth else "progressive") for k in depths]
    return {
        "2": Table("Table II: fusion mode", "`fusion`", [(n, n) for n in ("none", "early", "late", "progressive")]),
        "3": Table("Table III: number of fused layers", "`num_fusion_layers`", layers),
        "4": Table(
            "Table IV: SAIEL and CCPIL",
            "SAIEL, CCPIL",
            [
                ("off, off", "none"),
                ("on, off", "without-ccpil"),
                ("off, on", "without-saiel"),
                ("on, on", "progressive"),
            ],
        ),
        "5": Table(
            "Table V: integration operator",
            "`saiel_fusion`",
            [("concat", "progressive"), ("sum", "sum"), ("product", "product")],
        ),
        "6": Table(
            "Table VI: CCM and PIM",
            "CCM, PIM",
            [
                ("off, off", "without-ccpil"),
                ("on, off", "without-pim"),
                ("off, on", "without-ccm"),
                ("on, on", "progressive"),
            ],
        ),
        "residual": Table(
            "Ours: a residual around SAIEL and CCPIL",
            "`fusion_residual`",
            [
                ("literal, from the start", "progressive"),
                ("residual, from the start", "residual"),
                ("literal, added to the trained `none`", "literal-on-none"),
                ("residual, added to the trained `none`", "residual-on-none"),
            ],
        ),
        "modulation": Table(
            "Ours: how the words' modulation starts",
            "`modulation_init`",
            [("identity (ours)", "identity"), ("zero (the paper)", "zero")],
        ),
    }


# Fields of TrainArguments. Measured on two shared cores of an AMD EPYC: two processes with one thread each trained a
# model of this kind on 250 pairs/s together, one process with two threads on 150. bf16 with eager attention was 8 %
# faster than float32, bf16 with sdpa 50 % slower. With 64-pixel search crops the sentence had not lowered the loss
# after 400 steps. Drawing a pair takes 13 ms, training on it 10 ms: hence `DrawnOnce`.
TINY = {
    "model_config": {
        "hidden_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 192,
        "patch_size": 16,
        "template_size": 64,  # 16 template and 64 search tokens
        "search_size": 128,
        "drop_path_rate": 0.0,
        "initializer_range": 0.05,
        "saiel_hidden_size": 96,
        "num_saiel_heads": 4,
        "pim_hidden_size": 80,
        "head_channels": [32, 16, 8],
        "text_config": {
            "model_type": "bert",
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": 0.05,
            "max_position_embeddings": 64,
        },
    },
    "max_train_steps": 450,
    "per_device_train_batch_size": 32,
    "encoder_learning_rate": 3e-3,
    "head_learning_rate": 3e-3,
    "weight_decay": 1e-4,
    "lr_scheduler_type": "cosine",
    "num_warmup_steps": 30,
    "max_grad_norm": 1.0,
    "mixed_precision": "bf16",
    "attn_implementation": "eager",
    "words_share": 0.8,  # and no wrong or missing sentences: few steps have to show whether the sentence is used
    "wrong_text_share": 0.0,
    "no_text_share": 0.0,
    "flip_probability": 0.0,
    "brightness_jitter": 0.0,
    "logging_steps": 10,
}
TINY_CLIPS, TINY_FRAMES = 48, 8  # that score a tiny variant, half of each kind

BASE_RECIPES = {
    "lasot": "scripts/recipes/pjvlt_base_lasot.yaml",
    "got10k": "scripts/recipes/pjvlt_base_got10k.yaml",
}
