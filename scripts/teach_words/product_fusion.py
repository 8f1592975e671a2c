"""Turns a checkpoint whose SAIELs concatenate (`saiel_fusion="concat"`) into one whose SAIELs multiply.

In V_o * L_o a sentence acts on every channel of a patch, so likeness of patch and sentence is one linear map away. The
new model tracks as the old one did with an average sentence, and does not heed its own yet: L_o starts as nearly 1,
and what the language half of W_o added on average goes into the bias.
"""

import copy

import torch
from torch import Tensor, nn

from modeling_pjvlt import PJVLTModel

NOISE = 0.01  # standard deviation of the new modulation's weights
FIRST_MODULATION = -0.9, 1.0, 1.0  # alpha, beta and gamma of Eq. 5


@torch.no_grad()
def to_product(model: PJVLTModel, inputs: dict[str, Tensor]) -> PJVLTModel:
    """A new model with `saiel_fusion="product"`; one that has it is returned as it is.

    inputs: of a call of the model, typical crops and sentences, over which L_o is averaged. Raises `ValueError` for
    another fusion than "concat" and "product", and for a model without language.
    """
    config = model.config
    if not config.uses_language:
        raise ValueError("the checkpoint has no language stream")
    if config.saiel_fusion == "product":
        return model
    if config.saiel_fusion != "concat":
        raise ValueError(f"the checkpoint's saiel_fusion is {config.saiel_fusion!r}; expected 'concat' or 'product'")
    means = _mean_inputs([saiel.output for saiel in model.encoder.saiels()], model.eval(), inputs)
    config = copy.deepcopy(config)
    config.saiel_fusion = "product"
    product = PJVLTModel(config).eval()
    new = product.state_dict()
    product.load_state_dict(
        new | {name: value for name, value in model.state_dict().items() if value.shape == new[name].shape}
    )
    for before, after, mean in zip(model.encoder.saiels(), product.encoder.saiels(), means, strict=True):
        latent = before.visual.out_features
        weight = before.output.weight
        after.output.weight.copy_(weight[:, :latent])
        after.output.bias.copy_(before.output.bias + weight[:, latent:] @ mean[latent:])
        after.modulation.weight.normal_(std=NOISE)
        after.modulation.bias.copy_(torch.tensor(FIRST_MODULATION).repeat_interleave(latent))
    return product


def _mean_inputs(layers: list[nn.Module], model: PJVLTModel, inputs: dict[str, Tensor]) -> list[Tensor]:
    """The mean of what each layer reads in one call, over samples and tokens."""
    means = {}

    def keep(layer, given):
        means[layer] = given[0].flatten(0, -2).mean(dim=0)

    handles = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [means[layer] for layer in layers]
