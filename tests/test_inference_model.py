"""The per-frame path: equal to the plain one for every variant, and the model that it came from stays as it was."""

import gc
import weakref

import pytest
import torch
from test_model_variants import TABLES, VARIANTS, name
from tiny import build_tiny_inputs, build_tiny_model
from torch import nn
from torch._dynamo.backends.registry import _COMPILER_FNS, register_backend
from torch.testing import assert_close

from modeling_pjvlt import TINY_CHECKPOINT, PJVLTModel, PJVLTProcessor, TrackingSession
from modeling_pjvlt.data.synthetic.procedural import ProceduralClip
from modeling_pjvlt.decoding_pjvlt import decode_boxes, hann_window
from modeling_pjvlt.inference_layers_pjvlt import PJVLTInferenceVision
from modeling_pjvlt.onednn_pjvlt import OneDNN

ALL = pytest.mark.parametrize("variant", VARIANTS + TABLES, ids=name)
TOLERANCE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(params=["onednn", "torch"])
def kernels(request, monkeypatch):
    """The inference model with fused operations and without, whichever of them this processor would get."""
    fused = request.param == "onednn"
    if fused and not torch.backends.mkldnn.is_available():
        pytest.skip("This build of torch has no oneDNN.")
    monkeypatch.setattr(OneDNN, "serves", lambda device, dtype: fused)


def stirred_model(**variant):
    """A model in which nothing is neutral: statistics of batch norm, biases, modulation and layer scale all matter."""
    model = build_tiny_model(stirred=True, **variant)
    generator = torch.Generator().manual_seed(7)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=generator))
        norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=generator) * 4 + 0.1)
    return model


def features(model, inputs):
    return model.encode_text(inputs["input_ids"], inputs["attention_mask"]) if "input_ids" in inputs else None


def boxes_of_all_cells(score_map, offset_map, size_map):
    """(B, G, G, 4): the box that each cell would give, so that no random argmax decides."""
    grid = score_map.shape[-1]
    cells = torch.stack(torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="xy"))
    return torch.cat([(cells + offset_map) / grid, size_map], dim=1).permute(0, 2, 3, 1)


@torch.no_grad()
def prepared(model, inputs, *options, **settings):
    """An inference model and what it takes: pixels, template and sentence."""
    inference_model = model.prepare_for_tracking(*options, **settings)
    template = inference_model.template(inputs["template_pixel_values"])
    return inference_model, (inputs["pixel_values"], template, inference_model.sentence(features(model, inputs)))


@torch.no_grad()
def assert_equal_to_plain(model, inputs, **tolerance):
    inference_model, given = prepared(model, inputs)
    maps = inference_model(*given)
    plain = model(**inputs)
    plain = (plain.score_map, plain.offset_map, plain.size_map)
    for ours, theirs in zip(maps, plain, strict=True):
        assert_close(ours, theirs, **(tolerance or TOLERANCE))
    assert_close(boxes_of_all_cells(*maps), boxes_of_all_cells(*plain), **(tolerance or TOLERANCE))


@ALL
@pytest.mark.usefixtures("kernels")
def test_maps_and_boxes_equal_the_plain_path(variant):
    model = stirred_model(**variant)
    assert_equal_to_plain(model, build_tiny_inputs(model.config, batch=3))


@pytest.mark.parametrize("words", [2, 7, 8, 9, 30])
@pytest.mark.parametrize("fusion", ["concat", "sum", "product"])
@pytest.mark.usefixtures("kernels")
def test_sentences_of_any_length_equal_the_plain_path(words, fusion):
    model = stirred_model(saiel_fusion=fusion)
    assert_equal_to_plain(model, build_tiny_inputs(model.config, batch=2, words=words))


@pytest.mark.usefixtures("kernels")
@torch.no_grad()
def test_each_target_of_a_batch_gets_what_it_gets_alone():
    model = stirred_model()
    inputs = build_tiny_inputs(model.config, batch=3, words=12)
    inference_model, (pixels, template, _) = prepared(model, inputs)
    together = inference_model.locate(pixels, template, inference_model.sentence(features(model, inputs), 16))
    for row in range(3):
        one = {key: value[row : row + 1] for key, value in inputs.items()}
        length = int(one["attention_mask"].sum())
        one |= {key: one[key][:, :length] for key in ("input_ids", "attention_mask")}
        inference_model, given = prepared(model, one)
        alone = inference_model.locate(*given)
        assert_close(alone[0], together[row], **TOLERANCE)


@torch.no_grad()
def test_boxes_are_decoded_as_the_plain_model_decodes_them():
    model = stirred_model()
    inputs = build_tiny_inputs(model.config)
    (inference_model, pixels), window = prepared(model, inputs), hann_window(model.config.search_grid)
    for laid in (None, window):
        boxes, scores = decode_boxes(*inference_model(*pixels), laid)
        assert torch.equal(inference_model.locate(*pixels, laid), torch.cat([boxes, scores[:, None]], dim=1))


@pytest.mark.parametrize("act", ["gelu", "gelu_pytorch_tanh", "relu", "silu", "quick_gelu"])
@pytest.mark.usefixtures("kernels")
def test_every_activation_equals_the_plain_path(act):
    model = stirred_model(hidden_act=act)
    assert_equal_to_plain(model, build_tiny_inputs(model.config))


@ALL
@torch.no_grad()
def test_the_portable_form_is_the_same(variant):
    model = stirred_model(**variant)
    inputs = build_tiny_inputs(model.config, batch=1)
    maps = []
    for portable in (False, True):
        inference_model, given = prepared(model, inputs, portable=portable)
        maps.append(inference_model(*given))
    for ours, theirs in zip(*maps, strict=True):
        assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize(
    ("capability", "threads", "serves"),
    [("AVX512", 2, True), ("AVX512", 1, False), ("AVX2", 2, False), ("DEFAULT", 2, False)],
)
def test_fused_operations_in_float32_are_where_they_are_faster(capability, threads, serves, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert OneDNN.serves(torch.device("cpu"), torch.float32) == serves
    assert not OneDNN.serves(torch.device("cuda"), torch.float32)


def test_a_torch_without_a_private_operation_uses_its_own_instead(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert OneDNN.serves(torch.device("cpu"), torch.float32)
    monkeypatch.setattr(OneDNN, "NAMES", (*OneDNN.NAMES, "_operation_of_another_version"))
    assert not OneDNN.serves(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fusion", ["concat", "product"])
@torch.no_grad()
def test_low_precision_answers_in_float32_and_close(dtype, fusion):
    model = build_tiny_model(stirred=True, saiel_fusion=fusion)
    inputs = build_tiny_inputs(model.config)
    inference_model, given = prepared(model, inputs, dtype)
    maps = inference_model(*given)
    plain = model(**inputs)
    for ours, theirs in zip(maps, (plain.score_map, plain.offset_map, plain.size_map), strict=True):
        assert ours.dtype == torch.float32
        assert_close(ours, theirs, atol=0.05, rtol=0)


def test_a_sentence_too_long_for_its_place_is_refused():
    model = build_tiny_model()
    words = features(model, build_tiny_inputs(model.config, words=12))
    with pytest.raises(ValueError, match="12 tokens, more than `num_words` \\(8\\)"):
        model.prepare_for_tracking().sentence(words, 8)


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"model.eval\(\)"):
        build_tiny_model().train().prepare_for_tracking()


@torch.no_grad()
def test_the_model_stays_as_it_is_and_shares_its_large_weights(tmp_path):
    model = stirred_model()
    model.save_pretrained(tmp_path / "before")
    storages = {p.data_ptr() for p in model.parameters()}
    inference_model, given = prepared(model, build_tiny_inputs(model.config))
    inference_model(*given)
    model.prepare_for_tracking(torch.bfloat16)
    model.save_pretrained(tmp_path / "after")
    for path in (tmp_path / "before").iterdir():
        assert path.read_bytes() == (tmp_path / "after" / path.name).read_bytes(), path.name
    portable = model.prepare_for_tracking(portable=True)
    for layer in (m for m in portable.layers if isinstance(m, PJVLTInferenceVision)):
        assert {layer.fc1.weight.data_ptr(), layer.fc2.weight.data_ptr(), layer.output.weight.data_ptr()} <= storages


def test_what_does_not_fit_is_refused():
    model = build_tiny_model()
    inference_model, (search, template, sentence) = prepared(model, build_tiny_inputs(model.config))
    with pytest.raises(ValueError, match="32 x 32"):
        inference_model(search[..., :16], template, sentence)
    with pytest.raises(ValueError, match="16 x 16"):
        inference_model.template(search)
    with pytest.raises(ValueError, match=r"inference_model\.template"):
        inference_model.locate(search, search, sentence)
    with pytest.raises(ValueError, match="needs a sentence"):
        inference_model(search, template)


# Sessions


def track(session, clip, frames=8):
    session.add_target(clip.frame(0), clip.boxes[0], clip.text, target_id="first")
    session.add_target(clip.frame(0), clip.boxes[0] + 2, "a black cat on the grass by the water", target_id="second")
    return [[(t.box, t.score) for t in session.step(clip.frame(i))] for i in range(1, frames)]


CLIP = ProceduralClip(5, 10, size=(90, 120))


@pytest.mark.parametrize("fusion", ["progressive", "none"])
def test_fast_and_plain_sessions_follow_the_same_boxes(fusion, tiny_processor):
    model = stirred_model(fusion=fusion)
    fast, plain = (track(TrackingSession(model, tiny_processor, fast=f), CLIP) for f in (True, False))
    assert_close(flat(fast), flat(plain), atol=1e-3, rtol=0)


def flat(answers):
    return torch.tensor([[*box, score] for frame in answers for box, score in frame])


def test_sessions_share_one_inference_model_until_the_weights_change(tiny_processor):
    model = stirred_model()

    def made(**options):
        return TrackingSession(model, tiny_processor, **options).inference_model

    first = made()
    assert made() is first and made(dtype=torch.float32) is first and made(dtype=torch.bfloat16) is not first
    assert made() is first
    with torch.no_grad():
        model.encoder.layers[0].vision.attention.q_proj.weight.mul_(1.5)
    changed = made()
    assert changed is not first
    model.head.score[1].running_mean.add_(1)  # a buffer, folded into a convolution
    assert made() is not changed
    model.to(torch.bfloat16)
    assert made().dtype == torch.bfloat16
    model.float().load_state_dict(stirred_model().state_dict())
    assert_close(
        flat(track(TrackingSession(model, tiny_processor), CLIP)),
        flat(track(TrackingSession(model, tiny_processor, fast=False), CLIP)),
        atol=1e-3,
        rtol=0,
    )


def test_an_inference_model_dies_with_its_model(tiny_processor):
    model = stirred_model()
    left = weakref.ref(TrackingSession(model, tiny_processor).inference_model)
    del model
    gc.collect()
    assert left() is None


def test_options_of_the_fast_path_need_it(tiny_processor):
    with pytest.raises(ValueError, match="leave `fast` True"):
        TrackingSession(build_tiny_model(), tiny_processor, fast=False, dtype=torch.bfloat16)


def test_a_video_is_compiled_once_whatever_its_sentences(tiny_processor):
    model = stirred_model()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    register_backend(backend, name="counting")
    try:
        session = TrackingSession(model, tiny_processor, compile="counting")
        expected = track(TrackingSession(model, tiny_processor), CLIP)
        assert_close(flat(track(session, CLIP)), flat(expected), atol=1e-3, rtol=0)
        assert len(graphs) == 1  # two targets; no graph break, and no second graph over the video
        for text in ("cat", "the small yellow bird on the left of the tree with a red ball in the grass"):
            session.set_text("first", text)
            session.step(CLIP.frame(8))
        session.remove_target("second")
        session.step(CLIP.frame(9))
        assert len(graphs) == 2  # one target
        for name in ("second", "third", "fourth"):
            session.add_target(CLIP.frame(9), CLIP.boxes[9], "dog", target_id=name)
            session.step(CLIP.frame(9))
        assert len(graphs) == 3  # three and four targets are one shape
    finally:
        _COMPILER_FNS.pop("counting")
        torch._dynamo.reset()


@pytest.mark.slow
@torch.inference_mode()
def test_bfloat16_stays_within_half_a_pixel_but_where_two_cells_are_equally_good():
    """Where the bundled model's two best cells score alike, the other precision may read the neighbour's box."""
    model = PJVLTModel.from_pretrained(TINY_CHECKPOINT)
    processor = PJVLTProcessor.from_pretrained(TINY_CHECKPOINT)
    far = 0
    for seed in range(4):
        clip = ProceduralClip(seed, 20)
        session = TrackingSession(model, processor)
        session.add_target(clip.frame(0), clip.boxes[0], clip.text, target_id="it")
        low = TrackingSession(model, processor, dtype=torch.bfloat16)
        low.add_target(clip.frame(0), clip.boxes[0], clip.text, target_id="it")
        for index in range(1, 20):
            low._targets["it"].box = session.box_of("it")
            (exact,), (near,) = (s.step(clip.frame(index)) for s in (session, low))
            assert near.score == pytest.approx(exact.score, abs=0.01)
            far += near.box != pytest.approx(exact.box, abs=0.5)
    assert far <= 0.05 * 4 * 19
