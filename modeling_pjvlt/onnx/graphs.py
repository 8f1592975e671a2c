"""The three graphs of an export, and how they are written.

`TrackerGraph` runs for every frame, on crops and the outputs of the other two graphs, and gives the maps.
`TemplateGraph` runs once for every target, `TextGraph` once for every sentence. All take any number of targets, and
sentences of up to 40 tokens.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..inference_pjvlt import PJVLTInferenceModel, PJVLTSentence
from ..modeling_pjvlt import PJVLTModel
from ..sentences_pjvlt import MAX_WORDS
from .tracker import MAPS, SENTENCE

TRACED_TARGETS, TRACED_WORDS = 2, 6  # of the example that is traced; neither is special
TEXT_INPUTS = ("input_ids", "attention_mask")
NAMES = {  # of inputs and outputs of each graph; a model without language has fewer
    "text": (TEXT_INPUTS, SENTENCE),
    "template": (("template_pixel_values",), ("template",)),
    "tracker": (("pixel_values", "template", *SENTENCE), MAPS),
}


class PortableInferenceModel(PJVLTInferenceModel):
    """[`PJVLTInferenceModel`] whose sentences have one form, whatever their length, as one graph needs it."""

    def __init__(self, model: PJVLTModel, dtype: torch.dtype | None = None):
        super().__init__(model, dtype, portable=True)

    def _folded(self, words: int) -> bool:
        return super()._folded(MAX_WORDS)


class TemplateGraph(nn.Module):
    """Template crops (B, 3, S, S), float32 in any precision, to tokens (B, N_z, C)."""

    def __init__(self, inference_model: PortableInferenceModel):
        super().__init__()
        self.inference_model = inference_model

    def forward(self, template_pixel_values: Tensor) -> Tensor:
        return self.inference_model.template(template_pixel_values)


class TrackerGraph(nn.Module):
    """Search crops (B, 3, S, S), always float32, template and parts of a [`PJVLTSentence`] to the three maps."""

    def __init__(self, inference_model: PortableInferenceModel):
        super().__init__()
        self.inference_model = inference_model

    def forward(
        self,
        pixel_values: Tensor,
        template: Tensor,
        keys: Tensor | None = None,
        values: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        sentence = None if keys is None else PJVLTSentence(keys, values, mask)
        return self.inference_model(pixel_values, template, sentence)


class TextGraph(nn.Module):
    """`input_ids` and `attention_mask` (B, T) to the parts of a [`PJVLTSentence`]."""

    def __init__(self, model: PJVLTModel, inference_model: PortableInferenceModel):
        super().__init__()
        self.model, self.inference_model = model, inference_model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.model.encode_text(input_ids, attention_mask)
        return tuple(self.inference_model.sentence(features, input_ids.shape[1]))


@torch.no_grad()
def trace(model: PJVLTModel, dtype: torch.dtype | None = None) -> dict[str, ExportedProgram]:
    """`tracker`, `template` and, for a model that reads sentences, `text`. `dtype`: of the frames' arithmetic."""
    config = model.config
    inference_model = PortableInferenceModel(model.eval(), dtype)
    targets, words = Dim("targets"), Dim("words", min=2, max=MAX_WORDS)
    search, crops = (torch.zeros(TRACED_TARGETS, 3, size, size) for size in (config.search_size, config.template_size))
    inputs, dynamic = [search, inference_model.template(crops)], [{0: targets}, {0: targets}]
    template = TemplateGraph(inference_model).eval()
    programs = {"template": torch.export.export(template, (crops,), dynamic_shapes=({0: targets},))}
    if config.uses_language:
        text = TextGraph(model, inference_model).eval()
        tokens = tuple(torch.ones(TRACED_TARGETS, TRACED_WORDS, dtype=torch.long) for _ in TEXT_INPUTS)
        inputs += text(*tokens)  # which also puts transformers' hooks on, before they could be traced
        programs["text"] = torch.export.export(text, tokens, dynamic_shapes=({0: targets, 1: words},) * 2)
        columns = config.num_saiel_heads * words if config.num_saiel_heads > 1 else words
        dynamic += [{1: targets, 3: columns}, {1: targets, 2: columns}, {0: targets, 2: columns}]
    tracker = TrackerGraph(inference_model).eval()
    programs["tracker"] = torch.export.export(tracker, tuple(inputs), dynamic_shapes=tuple(dynamic))
    return programs


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """One `.onnx` file that holds its weights."""
    import onnx

    inputs, outputs = NAMES[path.stem]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of axes that share a name, and of what the exporter deprecates in itself
        written = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=inputs[: len(program.graph_signature.user_inputs)],
            output_names=outputs,
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


__all__ = [
    "NAMES",
    "PortableInferenceModel",
    "TemplateGraph",
    "TextGraph",
    "TrackerGraph",
    "trace",
    "write_onnx",
    "write_torch",
]
