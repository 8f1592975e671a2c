"""The three graphs of an export, and how they are written.

`TrackerGraph` runs for every frame, on crops and the outputs of the other two graphs, and returns the maps.
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

TRACED_TARGETS, TRACED_WORDS = 2, 6  # sizes of the traced example, which do not limit the graph
TEXT_INPUTS = ("input_ids", "attention_mask")
NAMES = {  # of inputs and outputs of each graph; a model without language has fewer
    "text": (TEXT_INPUTS, SENTENCE),
    "template": (("template_pixel_values",), ("template",)),
    "tracker": (("pixel_values", "template", *SENTENCE), MAPS),
}


class PortableInferenceModel(PJVLTInferenceModel):
    """[`PJVLTInferenceModel`] whose sentences have the same form at every length, because one graph takes them all."""

    def __init__(self, model: PJVLTModel, dtype: torch.dtype | None = None):
        super().__init__(model, dtype, portable=True)

    def _folded(self, words: int) -> bool:
        return super()._folded(MAX_WORDS)


class TemplateGraph(nn.Module):
    """From template crops (B, 3, S, S), always float32, to their tokens (B, N_z, C)."""

    def __init__(self, inference_model: PortableInferenceModel):
        super().__init__()
        self.inference_model = inference_model

    def forward(self, template_pixel_values: Tensor) -> Tensor:
        return self.inference_model.template(template_pixel_values)


class TrackerGraph(nn.Module):
    """From search crops (B, 3, S, S), always float32, template and parts of a [`PJVLTSentence`] to the three maps."""

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
        alignment: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        sentence = None if keys is None else PJVLTSentence(keys, values, mask, alignment)
        return self.inference_model(pixel_values, template, sentence)


class TextGraph(nn.Module):
    """From `input_ids` and `attention_mask` (B, T) to the parts of a [`PJVLTSentence`]."""

    def __init__(self, model: PJVLTModel, inference_model: PortableInferenceModel):
        super().__init__()
        self.model, self.inference_model = model, inference_model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        features = self.model.encode_text(input_ids, attention_mask)
        parts = self.inference_model.sentence(features, input_ids.shape[1])
        return tuple(part for part in parts if part is not None)


@torch.no_grad()
def trace(model: PJVLTModel, dtype: torch.dtype | None = None) -> dict[str, ExportedProgram]:
    """The programs `tracker`, `template` and, for a model with language, `text`. dtype: of the per-frame graph."""
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
        inputs += text(*tokens)  # this call also sets transformers' hooks, before they could be traced
        programs["text"] = torch.export.export(text, tokens, dynamic_shapes=({0: targets, 1: words},) * 2)
        columns = config.num_saiel_heads * words if config.num_saiel_heads > 1 else words
        dynamic += [{1: targets, 3: columns}, {1: targets, 2: columns}, {0: targets, 2: columns}]
        dynamic += [{0: targets}] * (len(inputs) - len(dynamic))  # the alignment, if there is one
    tracker = TrackerGraph(inference_model).eval()
    programs["tracker"] = torch.export.export(tracker, tuple(inputs), dynamic_shapes=tuple(dynamic))
    return programs


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """Write one `.onnx` file that holds its weights."""
    import onnx

    inputs, outputs = NAMES[path.stem]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about axes that share a name, and about the exporter's own deprecations
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=inputs[: len(program.graph_signature.user_inputs)],
            output_names=outputs[: len(program.graph_signature.user_outputs)],
        )
    model = exported.model_proto
    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        del node.metadata_props[:]  # file and line where each was traced: large, and about this machine
    del model.graph.value_info[:]
    onnx.save(model, path)


def write_torch(program: ExportedProgram, path: Path) -> None:
    """Write one `.pt2` file, for `torch.export.load(path).module()`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about weights that share storage
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
