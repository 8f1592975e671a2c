"""What the SAIELs learn words from: contrasts between the objects of many images, and choices among those of one.

Each labelled image gives all its objects and one phrase for each. Their features under the first SAIEL, where no
sentence has reached them yet, must tell all phrases of the batch apart (`contrast_loss`). Then each image is asked for
the objects of some of its phrases and of one of another image, with a hidden template: the score and, through a linear
map, the tokens after each layer must choose among the objects (`choice_loss`). The right choice is the phrase's object
to one half and what the contrast says to the other, which knows unseen images better; for another image's phrase it
is the contrast's alone. Pairs of the tracker's own mixture are trained beside them, so that it goes on tracking. With
a `tracker` it is kept where it is: where that tracker finds the target of a pair without words, its maps are what is
learned, whatever the sentence says (as in learning without forgetting, Li and Hoiem, 2016).
"""

from dataclasses import dataclass

import torch
from parts import Parts
from torch import Tensor, nn
from torch.nn import functional

from modeling_pjvlt import PJVLTModel
from modeling_pjvlt.loss_pjvlt import cells_around, target_cells, tracking_loss
from modeling_pjvlt.modeling_pjvlt import PJVLTSAIEL, PJVLTTextFeatures, instance_norm

FIRST_SCALE = 10.0  # of the cosines, before training
CHOICE_WEIGHT, EARLY_WEIGHT = 2.0, 0.5  # of the score's choice, and of the mean of those after the earlier layers
KEPT_WEIGHT, KEPT_BOX_WEIGHT = 5.0, 5.0  # of the distance to the tracker's maps, and therein of that of the boxes
EXCHANGED_SHARE = 0.3  # of the pairs whose target the tracker finds get the sentence of another pair
SURE, DOUBT = 0.3, 0.5  # least score of a target that is found, and the most elsewhere, as a share of it
ABSENT = 0.5  # where no target is shown, the tracker's scores lie below this


@dataclass
class PhraseBatch:
    """I images with R objects and a phrase for each, Q questions, and P pairs. Letters as in `modeling_pjvlt.py`.

    images: maps of the crops of the images; template: maps of one hidden template; templates, searches: maps of the
    pairs, whose searches are parts of the whole_searches that the tracker sees; places (P, 2): column and row of their
    first cells there. boxes (R, 4): cx, cy, w, h in fractions of the crop; image_of (R,): which image shows each
    object; also (R, R): whether object r (row) is also meant by phrase s (column), other than its own. asked (I, A):
    the phrases of its own that each image is asked for; foreign (I,): one of another image; Q = I A + I. labels (P, 4)
    of the pairs, and whole_labels (P, 4) in fractions of the whole searches.
    input_ids and attention_mask (R + P, T).
    """

    images: tuple[Tensor, ...]
    template: tuple[Tensor, ...]
    templates: tuple[Tensor, ...]
    searches: tuple[Tensor, ...]
    whole_searches: tuple[Tensor, ...]
    places: Tensor
    boxes: Tensor
    image_of: Tensor
    also: Tensor
    asked: Tensor
    foreign: Tensor
    labels: Tensor
    whole_labels: Tensor
    input_ids: Tensor
    attention_mask: Tensor


def cells_in_boxes(boxes: Tensor, grid: int) -> Tensor:
    """(R, grid * grid) bool: the cells whose middle lies in each box (R, 4), and the cell that holds its centre."""
    middle = (torch.arange(grid, device=boxes.device) + 0.5) / grid
    inside = (middle - boxes[:, :2, None]).abs() <= boxes[:, 2:, None] / 2  # (R, 2, grid), x and y
    cells = (inside[:, 1, :, None] & inside[:, 0, None, :]).flatten(1)
    own = target_cells(boxes, grid)
    return cells | functional.one_hot(own[:, 1] * grid + own[:, 0], grid * grid).bool()


def places_around(boxes: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """(B, 9) each: places in a flat map of the 3 x 3 cells around each centre, and which of them lie in the map."""
    cells, inside = cells_around(boxes, grid, 3)
    return cells[..., 1] * grid + cells[..., 0], inside


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


def choices(logits: Tensor, batch: PhraseBatch) -> tuple[Tensor, Tensor]:
    """The right answers (Q, R), which sum to 1, and between which objects each question is (Q, R), bool.

    logits (R, R): of objects and phrases, as in `contrast_loss`; no gradient flows through them.
    """
    own, images = batch.asked.flatten(), torch.arange(len(batch.foreign), device=batch.foreign.device)
    image = torch.cat([batch.image_of[own], images])
    among = batch.image_of == image[:, None]
    among[: len(own)] &= ~batch.also[:, own].T
    known = logits.detach().T[torch.cat([own, batch.foreign])].masked_fill(~among, float("-inf")).softmax(dim=1)
    known[: len(own)] = (known[: len(own)] + functional.one_hot(own, len(batch.boxes))) / 2
    return known, among


def choice_loss(logits: Tensor, batch: PhraseBatch, right: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy with the right answers, and the share of the image's own phrases that chose their object. Scalars.

    An object's logit is the log-sum-exp of the logits (Q, G, G) in the 3 x 3 cells around its centre. right, among:
    from `choices`.
    """
    grid, own = logits.shape[-1], batch.asked.flatten()
    places, inside = places_around(batch.boxes, grid)
    logits = logits.flatten(1)[:, places].masked_fill(~inside, float("-inf")).logsumexp(dim=-1)  # (Q, R)
    logits = logits.masked_fill(~among, float("-inf"))
    likely = logits.log_softmax(dim=1).masked_fill(~among, 0)
    return -(right * likely).sum(dim=1).mean(), (logits[: len(own)].argmax(dim=1) == own).float().mean()


def cells_near(boxes: Tensor, grid: int) -> Tensor:
    """(B, grid * grid) bool: the 3 x 3 cells around the centre of each box (B, 4)."""
    places, _ = places_around(boxes, grid)
    return torch.zeros(len(boxes), grid * grid, dtype=torch.bool, device=boxes.device).scatter(1, places, True)


def certain(score_map: Tensor, labels: Tensor) -> Tensor:
    """(P,) bool: in which pairs the scores (P, 1, G, G) leave no doubt, and are right.

    A shown target is found if the best score at its centre is high, and much higher than those outside its box.
    """
    grid, scores = score_map.shape[-1], score_map.flatten(1)
    near = cells_near(labels, grid)
    best, elsewhere = (scores * near).amax(dim=1), (scores * ~(near | cells_in_boxes(labels, grid))).amax(dim=1)
    shown = labels[:, 2] > 0
    return torch.where(shown, (best > SURE) & (elsewhere < DOUBT * best), scores.amax(dim=1) < ABSENT)


def kept_loss(maps: tuple[Tensor, ...], targets: tuple[Tensor, ...], labels: Tensor, kept: Tensor) -> Tensor:
    """Distance of score, offset and size maps to those of the tracker, in the rows `kept` (P,). Scalar.

    Of the scores it is the Kullback-Leibler divergence of each cell, summed over the cells and averaged over all rows;
    of the boxes the L1 distance in fractions of the crop, averaged over the cells around the targets.
    """
    scores, wanted = maps[0].clamp(1e-5, 1 - 1e-5), targets[0]
    divergence = functional.binary_cross_entropy(scores, wanted, reduction="none")
    divergence = divergence - functional.binary_cross_entropy(wanted, wanted, reduction="none")
    divergence = (divergence.flatten(1).sum(dim=1) * kept).mean()
    grid = scores.shape[-1]
    weights = cells_near(labels, grid) * (kept & (labels[:, 2] > 0))[:, None]
    weights = weights / weights.sum().clamp_min(1)
    both = zip(maps[1:], targets[1:], strict=True)
    offset, size = ((ours - theirs).abs().flatten(2).sum(dim=1) for ours, theirs in both)  # (P, G * G)
    return divergence + KEPT_BOX_WEIGHT * ((offset / grid + size) * weights).sum()


class Teacher(nn.Module):
    """A model and the losses that teach it words; the stem is not used, and does not change.

    tracker: a model with the same stem, whose maps are kept on the pairs, and the tokens `input_ids` and
    `attention_mask` (1, T) of the sentence that it gets. Its search crop may be larger, at the same scale.
    """

    def __init__(self, model: PJVLTModel, tracker: tuple[PJVLTModel, dict[str, Tensor]] | None = None):
        super().__init__()
        self.model = model
        self._tracker = tracker  # in a tuple, so that its weights are not trained or stored
        self.model.embeddings.stem.requires_grad_(False)
        self.log_scale = nn.Parameter(torch.tensor(FIRST_SCALE).log())
        self.weight = nn.Parameter(torch.ones(model.config.saiel_hidden_size))
        earlier = model.encoder.all_layers()[:-1]
        self.readouts = nn.ModuleList(nn.Linear(model.config.hidden_size, 1) for _ in earlier)
        self._kept: dict[str | int, Tensor] = {}
        self._saiel = [model.encoder.saiels()[0]]  # in a list, so that it is no second module of this name
        self._saiel[0].register_forward_pre_hook(lambda _, given: self._kept.update(visual=given[0]))
        for number, layer in enumerate(earlier):
            layer.register_forward_hook(lambda _, __, tokens, number=number: self._kept.update({number: tokens}))

    def forward(self, batch: PhraseBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of all losses, and its parts, detached."""
        model, objects = self.model, len(batch.boxes)
        own, device = batch.asked.flatten(), batch.asked.device
        asked = torch.cat([own, batch.foreign])  # phrases
        images = torch.cat([batch.image_of[own], torch.arange(len(batch.foreign), device=device)])
        embed, grid = model.embeddings, model.config.search_grid
        templates = embed.project(*batch.template).expand(len(asked), -1, -1), embed.project(*batch.templates)
        searches = embed.project(*batch.images)[images], embed.project(*batch.searches)
        text = model.encode_text(batch.input_ids, batch.attention_mask)
        phrases, pairs = torch.arange(objects + len(batch.labels), device=device).tensor_split([objects])
        targets, kept = None, None
        if self._tracker is not None:
            targets, kept = self._tracker_maps(batch)
            exchanged = kept & (torch.rand(len(pairs), device=device) < EXCHANGED_SHARE)
            pairs = torch.where(exchanged, pairs[torch.randint(len(pairs), pairs.shape, device=device)], pairs)
        outputs = model(
            inputs_embeds=embed.place(torch.cat(templates), torch.cat(searches)),
            text_features=text.rows(torch.cat([asked, pairs])),
        )
        visual = self._kept.pop("visual")[len(own) : len(asked)]  # one row of each image
        cosines = similarity(self._saiel[0], visual, batch.boxes, batch.image_of, text.rows(phrases), self.weight)
        logits = cosines * self.log_scale.exp()
        contrast = contrast_loss(logits, batch.also)
        retrieved = (cosines.masked_fill(batch.also, -2).argmax(dim=0) == phrases).float().mean()
        answers = choices(logits, batch)
        choice, chosen = choice_loss(outputs.score_map[: len(asked), 0].logit(), batch, *answers)
        early = []
        for number, readout in enumerate(self.readouts):
            tokens = self._kept.pop(number)[: len(asked), -grid * grid :]
            maps = readout(functional.layer_norm(tokens, tokens.shape[-1:])).unflatten(1, (grid, grid))[..., 0]
            early.append(choice_loss(maps, batch, *answers)[0])
        early = torch.stack(early).mean() if early else choice.new_zeros(())
        tracking, losses = self._tracking_loss(outputs, batch)
        loss = contrast + CHOICE_WEIGHT * choice + EARLY_WEIGHT * early + tracking
        parts = {"contrast": contrast, "retrieved": retrieved, "choice": choice, "chosen": chosen, "early": early}
        if targets is not None:
            maps = [part[len(asked) :] for part in (outputs.score_map, outputs.offset_map, outputs.size_map)]
            parts["kept"] = kept_loss(maps, targets, batch.labels, kept)
            loss = loss + KEPT_WEIGHT * parts["kept"]
        return loss, {name: part.detach() for name, part in parts.items()} | losses

    @torch.no_grad()
    def _tracker_maps(self, batch: PhraseBatch) -> tuple[tuple[Tensor, ...], Tensor]:
        """The tracker's maps of what the model sees of the pairs, and in which it is certain."""
        model, tokens = self._tracker
        embed, device = model.embeddings, batch.labels.device
        text = model.encode_text(**{name: part.to(device) for name, part in tokens.items()})
        placed = embed.place(embed.project(*batch.templates), embed.project(*batch.whole_searches))
        rows = torch.zeros(len(batch.labels), dtype=torch.long, device=device)
        outputs = model(inputs_embeds=placed, text_features=text.rows(rows))
        whole, cells = model.config.search_grid, self.model.config.search_grid
        maps = outputs.score_map, outputs.offset_map, outputs.size_map * (whole / cells)
        parts = Parts(whole, cells).cut(maps, batch.places.cpu().numpy())
        return parts, certain(outputs.score_map, batch.whole_labels)

    def _tracking_loss(self, outputs, batch: PhraseBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """That of the image's own phrases and of the pairs; where another image's phrase is, nobody knows.

        Boxes of phrases are drawn loosely, so boxes are learned from the pairs alone.
        """
        config = self.model.config
        maps = outputs.score_map, outputs.offset_map, outputs.size_map
        own, pairs = batch.asked.numel(), len(batch.labels)
        phrases, tracked = [part[:own] for part in maps], [part[-pairs:] for part in maps]
        score, _ = tracking_loss(*phrases, batch.boxes[batch.asked.flatten()], config.focal_weight, 0, 0)
        weights = config.focal_weight, config.giou_weight, config.l1_weight
        loss, parts = tracking_loss(*tracked, batch.labels, *weights, box_cells=config.box_cells)
        return (own * score + pairs * loss) / (own + pairs), parts
