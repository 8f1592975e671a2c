"""`pjvlt-train`: recipes, checkpoints, and that it learns."""

import json
import math
import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_pjvlt import PJVLTModel, PJVLTProcessor
from modeling_pjvlt.cli.train import main
from modeling_pjvlt.training.arguments import STORED_SHARES
from modeling_pjvlt.training.build import build_loader, build_model, build_pairs, parameter_groups, read_excluded
from modeling_pjvlt.training.command_line import parse_arguments, read_recipe


def test_command_line_overrides_the_recipe(recipe):
    args = parse_arguments(["--config", str(recipe), "--max_train_steps", "7", "--head_learning_rate", "0.5"])
    assert (args.max_train_steps, args.head_learning_rate, args.per_device_train_batch_size) == (7, 0.5, 2)


def test_a_recipe_is_read_with_an_equals_sign_too(recipe):
    assert parse_arguments([f"--config={recipe}"]) == parse_arguments(["--config", str(recipe)])


def test_run_leaves_checkpoints_that_load_and_a_log(recipe, tmp_path, capsys):
    assert main(["--config", str(recipe), "--checkpointing_steps", "1"]) == 0
    root = tmp_path / "run" / "checkpoints"
    assert sorted(p.name for p in root.iterdir()) == ["000001", "000002", "last"]
    assert (root / "last").resolve().name == "000002"
    model = PJVLTModel.from_pretrained(root / "last" / "pretrained_model")
    processor = PJVLTProcessor.from_pretrained(root / "last" / "pretrained_model")
    assert model.config.text_config.vocab_size == len(processor.tokenizer)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert {"loss", "focal", "giou", "l1", "iou", "overlap", "learning_rate", "pairs_per_second"} <= set(lines[0])
    assert "from_pretrained" in capsys.readouterr().out


def test_compiled_run_leaves_checkpoints_that_load(recipe, tmp_path):
    with torch.compiler.set_stance("force_eager"):  # as compiled, without the minutes that it takes
        assert main(["--config", str(recipe), "--torch_compile", "true"]) == 0
    folder = tmp_path / "run/checkpoints/last/pretrained_model"
    _, info = PJVLTModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_run_can_start_from_a_checkpoint(recipe, tmp_path):
    main(["--config", str(recipe)])
    start = tmp_path / "run" / "checkpoints" / "last" / "pretrained_model"
    args = ["--model_name_or_path", str(start), "--output_dir", str(tmp_path / "more"), "--max_train_steps", "1"]
    assert (
        main(
            [*args, "--per_device_train_batch_size", "2", "--encoder_learning_rate", "0", "--head_learning_rate", "0"]
        )
        == 0
    )
    before = PJVLTModel.from_pretrained(start)
    after = PJVLTModel.from_pretrained(tmp_path / "more" / "checkpoints" / "last" / "pretrained_model")
    torch.testing.assert_close(after.norm.weight, before.norm.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--max_train_steps", "0"], "--max_train_steps must be at least 1"),
        (["--model_name_or_path", "somewhere"], "either --model_name_or_path"),
        (["--config", "missing.yaml"], "no recipe at missing.yaml"),
        (["--flip_probability", "2"], "--flip_probability must lie between 0 and 1"),
        (["--attribute_weights", "1", "1"], "--attribute_weights must be three positive numbers"),
        (["--lr_scheduler_type", "step"], "--lr_drop_step and --lr_scheduler_type step need each other"),
        (["--num_decay_steps", "2"], "--num_decay_steps and --lr_scheduler_type warmup_stable_decay need each other"),
        (["--lr_scheduler_type", "cosinus"], "--lr_scheduler_type must be one of step, warmup_stable_decay, cosine, "),
        (["--lr_scheduler_type", "cosine_with_min_lr"], "got 'cosine_with_min_lr'"),
        (
            ["--lr_scheduler_type", "step", "--lr_drop_step", "2", "--num_warmup_steps", "1"],
            "--lr_scheduler_type step has no warm-up, got --num_warmup_steps 1",
        ),
        (
            ["--lr_scheduler_type", "constant", "--num_warmup_steps", "1"],
            "--lr_scheduler_type constant has no warm-up",
        ),
        (["--num_warmup_steps", "-1"], "--num_warmup_steps must be at least 0, got -1"),
        (
            ["--lr_scheduler_type", "warmup_stable_decay", "--num_decay_steps", "2", "--num_warmup_steps", "1"],
            "--num_warmup_steps 1 and --num_decay_steps 2 do not fit into --max_train_steps 2",
        ),
        (["--report_to", "trackio"], "pip install trackio"),
        (["--hub_model_id", "a/b"], "--hub_model_id does nothing without --push_to_hub"),
        (["--hub_private_repo"], "--hub_private_repo does nothing without --push_to_hub"),
        (["--streaming"], "--streaming needs --dataset_name"),
        *(
            (["--dataset_name", "a", "--streaming", "true", f"--{name}", "0.1"], f"--{name} cannot be used with")
            for name in STORED_SHARES
        ),
        *(([f"--{name}", "0.1"], f"--{name} apply to stored datasets") for name in STORED_SHARES),
        (["--dataset_name", "a", "b", "--dataset_weights", "1"], "--dataset_weights has 1 values for 2 datasets"),
        (["--dataset_name", "a", "a"], "--dataset_name names a dataset twice"),
        (["--validation_dataset_name", "a"], "does nothing without --validation_steps"),
    ],
)
def test_contradictions_name_the_flag(recipe, capsys, change, message):
    argv = change if "--config" in change else ["--config", str(recipe), *change]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("pjvlt-train: error: ") and error.count("\n") == 1


def test_shares_of_stored_datasets_and_of_boxed_images_are_taken(recipe):
    start = ["--config", str(recipe), "--dataset_name"]
    for name in STORED_SHARES:
        assert getattr(parse_arguments([*start, "a", "procedural", f"--{name}", "0.1"]), name) == 0.1
    boxed = ["boxed_images", "--boxed_images", "images", "--absent_share", "0.1"]
    assert parse_arguments([*start, *boxed]).absent_share == 0.1


def test_missing_extra_is_named(recipe, capsys, monkeypatch):
    import sys

    monkeypatch.delitem(sys.modules, "modeling_pjvlt.training.trainer", raising=False)
    monkeypatch.setitem(sys.modules, "accelerate", None)  # as where it is not installed
    assert main(["--config", str(recipe)]) == 2
    assert capsys.readouterr().err == "pjvlt-train: error: training needs accelerate: pip install 'pjvlt[train]'\n"


def test_unknown_field_of_a_recipe_is_named(recipe, capsys):
    recipe.write_text(recipe.read_text() + "learning_rte: 1\n")
    assert main(["--config", str(recipe)]) == 2
    assert "unknown field 'learning_rte'" in capsys.readouterr().err


def test_head_and_encoder_have_their_own_learning_rates(tiny_model, recipe):
    args = parse_arguments(["--config", str(recipe), "--encoder_learning_rate", "1", "--head_learning_rate", "2"])
    model = tiny_model()
    groups = parameter_groups(model, args)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == (2 if name.startswith("head.") else 1), name


def papers_loss(score, offset, size, labels) -> torch.Tensor:
    """The loss of the paper, a sample and a cell at a time, as its code base OSTrack has it."""
    grid, total = score.shape[-1], 0
    for b, (cx, cy, w, h) in enumerate(labels.tolist()):
        a, c = w * grid, h * grid
        roots = [
            ((a + c) - math.sqrt((a + c) ** 2 - 4 * a * c * 0.3 / 1.7)) / 2,
            (2 * (a + c) - math.sqrt(4 * (a + c) ** 2 - 16 * 0.3 * a * c)) / 8,
            (-1.4 * (a + c) + math.sqrt(1.96 * (a + c) ** 2 + 11.2 * 0.3 * a * c)) / 5.6,
        ]
        sigma = (2 * min(roots) + 1) / 6
        column, row = int(cx * grid), int(cy * grid)
        for y in range(grid):
            for x in range(grid):
                p, heat = score[b, 0, y, x], math.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * sigma**2))
                if (x, y) == (column, row):
                    total = total - (1 - p) ** 2 * p.log() / len(labels)
                else:
                    total = total - (1 - heat) ** 4 * p**2 * (1 - p).log() / len(labels)
        x, y = (column + offset[b, 0, row, column]) / grid, (row + offset[b, 1, row, column]) / grid
        w_hat, h_hat = size[b, :, row, column]
        box = [x - w_hat / 2, y - h_hat / 2, x + w_hat / 2, y + h_hat / 2]
        truth = [min(max(v, 0.0), 1.0) for v in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)]
        truth = [torch.tensor(v) for v in truth]
        shared = (torch.minimum(box[2], truth[2]) - torch.maximum(box[0], truth[0])).clamp(min=0)
        shared = shared * (torch.minimum(box[3], truth[3]) - torch.maximum(box[1], truth[1])).clamp(min=0)
        union = w_hat * h_hat + (truth[2] - truth[0]) * (truth[3] - truth[1]) - shared
        hull = torch.maximum(box[2], truth[2]) - torch.minimum(box[0], truth[0])
        hull = hull * (torch.maximum(box[3], truth[3]) - torch.minimum(box[1], truth[1]))
        total = total + 2 * (1 - shared / union + (hull - union) / hull) / len(labels)
        total = total + 5 * sum((p - t).abs() for p, t in zip(box, truth, strict=True)) / 4 / len(labels)
    return total


def test_one_training_step_equals_that_of_the_papers_loss(tiny_model, tiny_inputs):
    ours, theirs = tiny_model(stirred=True), tiny_model(stirred=True)
    inputs = tiny_inputs(ours.config, batch=3)
    labels = torch.tensor([[0.3, 0.55, 0.4, 0.3], [0.9, 0.1, 0.4, 0.5], [0.6, 0.6, 0.1, 0.2]])
    outputs = ours(**inputs, labels=labels)
    maps = theirs(**inputs)
    loss = papers_loss(maps.score_map, maps.offset_map, maps.size_map, labels)
    torch.testing.assert_close(outputs.loss, loss, rtol=1e-5, atol=1e-5)
    for model, value in ((ours, outputs.loss), (theirs, loss)):
        value.backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    before = tiny_model(stirred=True).state_dict()
    assert any(not torch.equal(before[name], value) for name, value in ours.state_dict().items())
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_training_learns_to_box_a_single_pair(tiny_model, tiny_processor):
    from modeling_pjvlt.data.pairs.cropping import PairCropper
    from modeling_pjvlt.data.pairs.mixture import PairCollator, TrackingPairs
    from modeling_pjvlt.data.pairs.sources import ProceduralPairs

    torch.manual_seed(0)
    model = tiny_model(fusion_residual=True).train()
    pairs = TrackingPairs(
        ProceduralPairs(num_frames=4),
        PairCropper(tiny_processor.image_processor, flip_probability=0.0, brightness_jitter=0.0),
        length=4,
    )
    batch = PairCollator(tiny_processor)([pairs[i] for i in range(4)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        outputs = model(**batch)
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(outputs.loss.item())
    assert losses[-1] < 0.25 * losses[0] and outputs.loss_dict["iou"] > 0.6


def write_images(tmp_path):
    """A folder of images with their boxes, as users have it."""
    folder = tmp_path / "images" / "train"
    folder.mkdir(parents=True)
    lines = ["file_name,sequence,frame,x,y,w,h,text"]
    for number in range(3):
        Image.fromarray(np.full((40, 50, 3), 60 * number, np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,mine,{number},10,12,14,9,my dog on the left")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder.parent


def test_own_folder_of_images_trains(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    assert main(["--config", str(recipe), "--dataset_name", str(write_images(tmp_path))]) == 0
    assert (tmp_path / "run" / "checkpoints" / "last" / "pretrained_model" / "model.safetensors").is_file()


def test_excluded_sequences_are_named_one_a_line_and_may_hold_blanks(recipe, tmp_path):
    path = tmp_path / "excluded.txt"
    path.write_text("\ufeffdog 1\r\n\n  white cat\t\nmouse", encoding="utf-8")
    args = parse_arguments(["--config", str(recipe), "--dataset_name", "a", "--exclude_sequences", str(path)])
    assert read_excluded(args, {"a": SimpleNamespace(names=["dog 1"])}) == {"dog 1", "white cat", "mouse"}
    with pytest.raises(ValueError, match=r"none of the 3 names in .*excluded\.txt is a sequence of a"):
        read_excluded(args, {"a": SimpleNamespace(names=["dog", "1", "white", "cat"])})


@pytest.mark.parametrize("streaming", ["true", "false"])
def test_list_of_excluded_sequences_without_a_name_is_refused(streaming, recipe, tmp_path):
    path = tmp_path / "excluded.txt"
    path.write_text(" \n\n")
    more = ["--dataset_name", "a", "--streaming", streaming, "--exclude_sequences", str(path)]
    with pytest.raises(ValueError, match=r"excluded\.txt is empty"):
        read_excluded(parse_arguments(["--config", str(recipe), *more]), {"a": SimpleNamespace(names=["dog"])})


def test_recipe_of_an_installed_package_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_pjvlt.training.command_line.RECIPES", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "finetune.yaml").write_text("max_train_steps: 7\n")
    assert read_recipe("scripts/recipes/finetune.yaml") == read_recipe("finetune.yaml") == {"max_train_steps": 7}


@pytest.fixture
def spawned():
    """Processes start as on Windows and macOS: everything they need is pickled."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    "given", [[], ["--dataset_name", "IMAGES"], ["--dataset_name", "IMAGES", "--streaming", "true"]]
)
def test_spawned_workers_give_the_batches_of_one_process(given, spawned, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    images = str(write_images(tmp_path))
    given = [images if word == "IMAGES" else word for word in given]

    def batches(workers):
        command = ["--config", str(recipe), "--dataloader_num_workers", str(workers), *given]
        args = parse_arguments(command)
        _, processor = build_model(args)
        pairs = build_pairs(args, processor.image_processor, 4)
        return list(build_loader(args, pairs, processor, 0, 1, 0))

    alone, helped = batches(0), batches(2)
    assert len(alone) == len(helped) == 2
    for one, other in zip(alone, helped, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])), name
