"""What the SAIELs learn words from: contrasts between the objects of many images, and choices among those of one.

Each labelled image gives all its objects and one phrase for each. Their features under the first SAIEL, where no
sentence has reached them yet, must tell all phrases of the batch apart (`contrast_loss`); with one of its phrases and
a hidden template the whole model must choose that phrase's object (`choice_loss`), and find its box. Pairs of the
tracker's own mixture are trained beside them, so that it goes on tracking.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from modeling_pjvlt import PJVLTModel
from modeling_pjvlt.loss_pjvlt import cells_around, target_cells
from modeling_pjvlt.modeling_pjvlt import PJVLTSAIEL, PJVLTTextFeatures, instance_norm

FIRST_SCALE = 10.0  # of the cosines, before training


@dataclass
class PhraseBatch:
    """I images with R objects and a phrase for each, and P pairs. Letters as in `modeling_pjvlt.py`.

    images: maps of the crops of the images; template: maps of one hidden template; templates, searches: maps of the
    pairs. boxes (R, 4): cx, cy, w, h in fractions of the crop; image_of (R,): which image shows each object; also
    (R, R): whether object r (row) is also meant by phrase s (column), other than its own; asked (I,): the object whose
    phrase is asked for in each image. labels (P, 4) of the pairs. input_ids and attention_mask (R + P, T).
    """

    images: tuple[Tensor, ...]
    template: tuple[Tensor, ...]
    templates: tuple[Tensor, ...]
    searches: tuple[Tensor, ...]
    boxes: Tensor
    image_of: Tensor
    also: Tensor
    asked: Tensor
    labels: Tensor
    input_ids: Tensor
    attention_mask: Tensor


def cells_in_boxes(boxes: Tensor, grid: int) -> Tensor:
    """(R, grid * grid) bool: the cells whose middle lies in each box (R, 4), and the cell that holds its centre."""
    middle = (torch.arange(grid, device=boxes.device) + 0.5) / grid
    inside = (middle - boxes[:, :2, None]).abs() <= boxes[:, 2:, None] / 2  # (R, 2, grid), x and y
    cells = (inside[:, 1, :, None] & inside[:, 0, None, :]).flatten(1)
    own = target_cells(boxes, grid)
    return cells | functional.one_hot(own[:, 1] * grid + own[:, 0], grid * grid).bool()


def similarity(
    saiel: PJVLTSAIEL, visual: Tensor, boxes: Tensor, image_of: Tensor, text: PJVLTTextFeatures, weight: Tensor
) -> Tensor:
    """(R, S): cosine of each object's mean V_o (Eq. 6) with the L_o (Eq. 5) of each sentence, attended by its query.

    visual (I, N, C): the tokens that the SAIEL reads; boxes (R, 4) and image_of (R,) as in [`PhraseBatch`]; text: S
    sentences, whose first layer is the SAIEL's; weight (D,) of each channel of V_o.
    """
    grid = saiel.config.search_grid
    cells = cells_in_boxes(boxes, grid).to(visual.dtype)
    mean = (cells / cells.sum(dim=1, keepdim=True))[:, None]  # (R, 1, G * G)
    queries, latents = instance_norm(saiel.query(visual)), functional.gelu(saiel.visual(visual))
    query, latent = ((mean @ part[image_of, -grid * grid :])[:, 0] for part in (queries, latents))  # (R, D)
    keys, values = text.keys[:, 0], text.values[:, 0]  # (S, H, T, d)
    scores = torch.einsum("rhd,shtd->rsht", query.unflatten(-1, (saiel.num_heads, -1)), keys) * saiel.scaling
    weights = scores.masked_fill(~text.attention_mask.bool()[None, :, None], float("-inf")).softmax(dim=-1)
    attended = torch.einsum("rsht,shtd->rshd", weights, values).flatten(2)
    alpha, beta, gamma = text.modulation[:, 0].unbind(dim=1)  # each (S, D)
    language = gamma * ((1 + alpha) * attended + beta)  # (R, S, D)
    latent, language = (functional.normalize(part, dim=-1) for part in (latent * weight, language))
    return torch.einsum("rd,rsd->rs", latent, language)


def contrast_loss(logits: Tensor, also: Tensor) -> Tensor:
    """Symmetric cross-entropy of objects and phrases, (R, R), as in CLIP (Radford et al., 2021).

    What `also` belongs together is no contrast.
    """
    logits = logits.masked_fill(also, float("-inf"))
    own = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def choice_loss(score_map: Tensor, batch: PhraseBatch) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the asked object among those of its image, and the share of right choices. Scalars.

    An object's logit is the log-sum-exp of the scores' logits in the 3 x 3 cells around its centre. score_map
    (I, 1, G, G).
    """
    grid = score_map.shape[-1]
    cells, inside = cells_around(batch.boxes, grid, 3)
    places = cells[..., 1] * grid + cells[..., 0]  # (R, 9)
    logits = score_map.logit().flatten(1)[:, places].masked_fill(~inside, float("-inf")).logsumexp(dim=-1)  # (I, R)
    images = torch.arange(len(logits), device=logits.device)
    rivals = (batch.image_of[None] == images[:, None]) & ~batch.also[:, batch.asked].T
    logits = logits.masked_fill(~rivals, float("-inf"))
    return functional.cross_entropy(logits, batch.asked), (logits.argmax(dim=1) == batch.asked).float().mean()


class Teacher(nn.Module):
    """A model and the losses that teach it words; the stem is not used, and does not change."""

    def __init__(self, model: PJVLTModel):
        super().__init__()
        self.model = model
        self.model.embeddings.stem.requires_grad_(False)
        self.log_scale = nn.Parameter(torch.tensor(FIRST_SCALE).log())
        self.weight = nn.Parameter(torch.ones(model.config.saiel_hidden_size))
        self._read_by_saiel = None
        self.saiel = [model.encoder.saiels()[0]]  # in a list, so that it is no second module of this name
        self.saiel[0].register_forward_pre_hook(self._keep)

    def _keep(self, saiel: PJVLTSAIEL, inputs: tuple) -> None:
        self._read_by_saiel = inputs[0]

    def forward(self, batch: PhraseBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of all losses, and its parts, detached."""
        model, count = self.model, len(batch.asked)
        embed, objects = model.embeddings, len(batch.boxes)
        templates = embed.project(*batch.template).expand(count, -1, -1), embed.project(*batch.templates)
        searches = embed.project(*batch.images), embed.project(*batch.searches)
        text = model.encode_text(batch.input_ids, batch.attention_mask)
        pairs = torch.arange(objects, objects + len(batch.labels), device=batch.asked.device)
        outputs = model(
            inputs_embeds=embed.place(torch.cat(templates), torch.cat(searches)),
            text_features=text.rows(torch.cat([batch.asked, pairs])),
            labels=torch.cat([batch.boxes[batch.asked], batch.labels]),
        )
        visual = self._read_by_saiel[:count]
        own = torch.arange(objects, device=batch.asked.device)
        cosines = similarity(self.saiel[0], visual, batch.boxes, batch.image_of, text.rows(own), self.weight)
        contrast = contrast_loss(cosines * self.log_scale.exp(), batch.also)
        choice, chosen = choice_loss(outputs.score_map[:count], batch)
        found = (cosines.masked_fill(batch.also, -2).argmax(dim=0) == own).float().mean()
        parts = {"contrast": contrast.detach(), "found": found, "choice": choice.detach(), "chosen": chosen}
        return contrast + choice + outputs.loss, {**parts, **outputs.loss_dict}
