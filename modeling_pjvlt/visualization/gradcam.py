"""Where the tracker looks: Grad-CAM of the search crop, and how much its patches attend to each token of the sentence.

Grad-CAM: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
ICCV 2017 (the paper's Figures 6-8). The inputs are those of [`PJVLTModel.forward`], on the model's device. Letters in
shapes: B batch, N visual tokens (template first), C channels, T tokens of the sentence, G search grid.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..modeling_pjvlt import PJVLTModel, instance_norm

INPUT_NAMES = ("pixel_values", "template_pixel_values", "input_ids", "attention_mask", "text_features")


def search_activation(
    model: PJVLTModel, inputs: Mapping, layer: int = -1, window: Tensor | None = None
) -> Tensor:  # (B, G, G)
    """Grad-CAM of the highest score with respect to the output of one layer of the joint encoder.

    The weight of a channel is its gradient, averaged over the search tokens; the map is the ReLU of the weighted sum
    of the channels. The gradient is that of the score before its sigmoid: after normalising, this gives the same map,
    and it does not vanish where the score is close to 0 or 1.

    Args:
        model: it runs in eval mode; afterwards it is in the mode it was in, without hooks or gradients.
        inputs: of the model's forward; other entries, such as `labels`, are ignored.
        layer: index into `model.encoder.all_layers()`; -1 is the last, whose output the final norm reads. With late
            fusion, the fusion layers come after the vision layers.
        window: (G, G), which multiplies the scores before the highest is chosen, as in tracking. None: no window.

    Returns (B, G, G) float32 in [0, 1], with a maximum of 1 for each sample; a map without positive values is all 0.
    Raises `ValueError` for a layer that does not exist.
    """
    layers = model.encoder.all_layers()
    if not -len(layers) <= layer < len(layers):
        raise ValueError(
            f"There is no layer {layer}: the joint encoder has {len(layers)}, so pass {-len(layers)} to "
            f"{len(layers) - 1}."
        )
    captured: dict[str, Tensor] = {}

    def cut(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        captured["tokens"] = output.detach().requires_grad_(True)  # nothing before this layer needs a gradient
        return captured["tokens"]

    def keep_logits(module: nn.Module, args: tuple, output: Tensor) -> None:
        captured["logits"] = output

    hooks = [layers[layer].register_forward_hook(cut), model.head.score.register_forward_hook(keep_logits)]
    try:
        with torch.inference_mode(False), torch.enable_grad(), _eval_mode(model):
            score_map = model(**_model_inputs(model, inputs)).score_map[:, 0].detach()  # (B, G, G)
            cells = (score_map if window is None else score_map * window).flatten(1).argmax(dim=1, keepdim=True)
            score = captured["logits"].flatten(1).gather(1, cells).sum()
            (gradient,) = torch.autograd.grad(score, captured["tokens"])
    finally:
        for hook in hooks:
            hook.remove()
    grid = model.config.search_grid
    tokens = captured["tokens"].detach()[:, -grid * grid :].float()  # (B, G * G, C)
    weights = gradient[:, -grid * grid :].float().mean(dim=1, keepdim=True)  # (B, 1, C)
    activation = (weights * tokens).sum(dim=-1).relu()
    highest = activation.amax(dim=1, keepdim=True)
    return (activation / highest.where(highest > 0, 1.0)).unflatten(1, (grid, grid))


@torch.no_grad()
def word_weights(model: PJVLTModel, inputs: Mapping) -> list[Tensor]:
    """How much the search patches attend to each token of the sentence in each SAIEL (Eq. 3).

    Computed from the queries and keys of the modules, so it works with every attention implementation.

    Args:
        model: as in [`search_activation`].
        inputs: of the model's forward; other entries are ignored.

    Returns for each SAIEL, in the order in which they run, (B, T) float32: the mean over heads and search tokens. Rows
    sum to 1; padding has 0, [CLS] and [SEP] have weights of their own. Empty for a model without language.
    """
    if not model.config.uses_language:
        return []
    patches = model.config.search_grid**2
    weights: list[Tensor] = []
    with _eval_mode(model):
        kwargs = _model_inputs(model, inputs)
        ids, mask = kwargs.pop("input_ids", None), kwargs.pop("attention_mask", None)
        if kwargs.get("text_features") is None and ids is not None:
            kwargs["text_features"] = model.encode_text(ids, mask)

        def attend(saiel: nn.Module, args: tuple) -> None:
            visual, keys = args[:2]
            query = instance_norm(saiel.query(visual))[:, -patches:]  # the norm is over all tokens
            query = query.unflatten(-1, (saiel.num_heads, -1)).transpose(1, 2)  # (B, H, G * G, d)
            logits = query.float() @ keys.float().transpose(2, 3) * saiel.scaling
            padding = ~kwargs["text_features"].attention_mask.bool()[:, None, None]
            weights.append(logits.masked_fill(padding, float("-inf")).softmax(dim=-1).mean(dim=(1, 2)))

        hooks = [saiel.register_forward_pre_hook(attend) for saiel in model.encoder.saiels()]
        try:
            model(**kwargs)
        finally:
            for hook in hooks:
                hook.remove()
    return weights


def _model_inputs(model: PJVLTModel, inputs: Mapping) -> dict:
    """The inputs that the model reads; tensors made in inference mode are copied, because autograd refuses them."""

    def usable(value):
        if isinstance(value, Tensor):
            return value.clone() if value.is_inference() else value
        return type(value)(**{name: usable(part) for name, part in value.items()}) if value is not None else None

    names = INPUT_NAMES if model.config.uses_language else INPUT_NAMES[:2]
    return {name: usable(inputs[name]) for name in names if name in inputs}


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the context; afterwards every module is in the mode it was in."""
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


__all__ = ["search_activation", "word_weights"]
