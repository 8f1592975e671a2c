"""The two graphs of an export, and how they are written.

`TrackerGraph` is what runs for every frame: crops and the sentence constants in, maps out. `TextGraph` is what runs once
for every sentence. Both take any number of targets, and of words up to 40.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..frame_pjvlt import PJVLTFrameModel, PJVLTSentence
from ..modeling_pjvlt import PJVLTModel
from ..onnx_pjvlt import SENTENCE
from ..sentences_pjvlt import MAX_WORDS

MAPS = ("score_map", "offset_map", "size_map")
TRACED_TARGETS, TRACED_WORDS = 2, 6  # of the example that is traced; neither is special
TEXT_INPUTS = ("input_ids", "attention_mask")


class PortableFrameModel(PJVLTFrameModel):
    """[`PJVLTFrameModel`] whose sentences have one form, whatever their length, as one graph needs it."""

    def __init__(self, model: PJVLTModel, dtype: torch.dtype | None = None):
        super().__init__(model, dtype, portable=True)

    def _folded(self, words: int) -> bool:
        return super()._folded(MAX_WORDS)


class TrackerGraph(nn.Module):
    """Crops (B, 3, S, S) and the parts of a [`PJVLTSentence`] to the three maps. Pixels are float32 in any precision."""

    def __init__(self, frame_model: PortableFrameModel):
        super().__init__()
        self.frame_model = frame_model

    def forward(
        self,
        pixel_values: Tensor,
        template_pixel_values: Tensor,
        keys: Tensor | None = None,
        values: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        sentence = None if keys is None else PJVLTSentence(keys, values, mask)
        return self.frame_model(pixel_values, template_pixel_values, sentence)


class TextGraph(nn.Module):
    """`input_ids` and `attention_mask` (B, T) to the parts of a [`PJVLTSentence`]."""

    def __init__(self, model: PJVLTModel, frame_model: PortableFrameModel):
        super().__init__()
        self.model, self.frame_model = model, frame_model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.model.encode_text(input_ids, attention_mask)
        return tuple(self.frame_model.sentence(features, input_ids.shape[1]))


@torch.no_grad()
def trace(model: PJVLTModel, dtype: torch.dtype | None = None) -> dict[str, ExportedProgram]:
    """`tracker` and, for a model that reads sentences, `text` as exported programs. `dtype`: of the frames' arithmetic."""
    config = model.config
    frame_model = PortableFrameModel(model.eval(), dtype)
    targets, words = Dim("targets"), Dim("words", min=2, max=MAX_WORDS)
    inputs = [torch.zeros(TRACED_TARGETS, 3, size, size) for size in (config.search_size, config.template_size)]
    dynamic: list = [{0: targets}, {0: targets}]
    programs = {}
    if config.uses_language:
        text = TextGraph(model, frame_model).eval()
        tokens = tuple(torch.ones(TRACED_TARGETS, TRACED_WORDS, dtype=torch.long) for _ in TEXT_INPUTS)
        inputs += text(*tokens)  # which also puts transformers' hooks on, before they could be traced
        programs["text"] = torch.export.export(text, tokens, dynamic_shapes=({0: targets, 1: words},) * 2)
        columns = config.num_saiel_heads * words if config.num_saiel_heads > 1 else words
        dynamic += [{1: targets, 3: columns}, {1: targets, 2: columns}, {0: targets, 2: columns}]
    tracker = TrackerGraph(frame_model).eval()
    programs["tracker"] = torch.export.export(tracker, tuple(inputs), dynamic_shapes=tuple(dynamic))
    return programs


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """One `.onnx` file that holds its weights."""
    is_text = path.stem == "text"
    inputs = TEXT_INPUTS if is_text else ("pixel_values", "template_pixel_values", *SENTENCE)
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of axes that share a name, and of what the exporter deprecates in itself
        written = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=inputs[: len(program.graph_signature.user_inputs)],
            output_names=SENTENCE if is_text else MAPS,
        )
    graph = written.model_proto
    for node in [*graph.graph.node, *(node for function in graph.functions for node in function.node)]:
        del node.metadata_props[:]  # where in which file each was traced: large, and about this machine
    del graph.graph.value_info[:]
    onnx.save(graph, path)


def write_torch(program: ExportedProgram, path: Path) -> None:
    """One `.pt2` file, for `torch.export.load(path).module()`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that share storage
        torch.export.save(program, path)


__all__ = ["MAPS", "PortableFrameModel", "TextGraph", "TrackerGraph", "trace", "write_onnx", "write_torch"]
