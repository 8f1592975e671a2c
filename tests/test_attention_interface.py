"""All attention goes through transformers' interface, and keeps FlashAttention's contract without a GPU at hand.

A stand-in kernel is registered that does what transformers' FlashAttention does: queries, keys and values are unpadded
with a 2D mask that is taken to be as long as the queries, or come packed with cumulative lengths.
"""

import re
from collections import Counter
from types import ModuleType

import pytest
import torch
from tiny import build_tiny_config, build_tiny_inputs, stir
from torch import Tensor
from torch.testing import assert_close
from transformers import AttentionInterface, AttentionMaskInterface, modeling_flash_attention_utils
from transformers.integrations import hub_kernels

from modeling_pjvlt import PJVLTModel

KERNEL = "unpadding_stand_in"
calls: Counter = Counter()  # (class of the module, how it was called)


def attend_packed(
    query: Tensor, key: Tensor, value: Tensor, starts_q: Tensor, starts_k: Tensor, scaling: float
) -> Tensor:
    """Rows of different lengths behind one another: query (total_q, H, d), key and value (total_k, H, d)."""
    assert starts_q.dtype == starts_k.dtype == torch.int32  # what the real kernel insists on
    assert starts_q[-1] == len(query) and starts_k[-1] == len(key) and len(starts_q) == len(starts_k)
    rows = []
    for row in range(len(starts_q) - 1):
        q = query[starts_q[row] : starts_q[row + 1]].transpose(0, 1)
        k = key[starts_k[row] : starts_k[row + 1]].transpose(0, 1)
        v = value[starts_k[row] : starts_k[row + 1]].transpose(0, 1)
        rows.append(((q @ k.transpose(1, 2) * scaling).softmax(dim=-1) @ v).transpose(0, 1))
    return torch.cat(rows)


def starts_of(mask: Tensor) -> Tensor:
    return torch.nn.functional.pad(mask.sum(dim=1).cumsum(0), (1, 0)).int()


def stand_in(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Query (B, H, N, d), key and value (B, H, M, d) to (B, N, H, d), None, as `flash_attention_forward` has it."""
    packing = [kwargs.get(name) for name in ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")]
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # (B, N, H, d)
    batch, length = query.shape[:2]
    assert not module.is_causal and dropout == 0.0
    if attention_mask is not None:
        calls[type(module).__name__, "mask"] += 1
        assert attention_mask.ndim == 2
        mask = attention_mask.bool()
        key, value = key[mask], value[mask]
        if length == attention_mask.shape[1]:
            mask_q = mask
        else:  # `_upad_input`: "the -q_len: slice assumes left padding"
            mask_q = mask[:, -length:]
            query = query[:, : mask_q.shape[1]]
        out = attend_packed(query[mask_q], key, value, starts_of(mask_q), starts_of(mask), scaling)
        padded = out.new_zeros(batch, length, *out.shape[1:])
        padded[:, : mask_q.shape[1]][mask_q] = out
        return padded, None
    if all(x is not None for x in packing):
        calls[type(module).__name__, "packed"] += 1
        starts_q, starts_k, longest_q, longest_k = packing
        assert longest_q == starts_q.diff().max() and longest_k == starts_k.diff().max()
        query, key, value = (x.reshape(-1, *x.shape[2:]) for x in (query, key, value))
        return attend_packed(query, key, value, starts_q, starts_k, scaling).view(
            batch, length, *query.shape[1:]
        ), None
    calls[type(module).__name__, "dense"] += 1
    weights = (torch.einsum("bnhd,bmhd->bhnm", query, key) * scaling).softmax(dim=-1)
    return torch.einsum("bhnm,bmhd->bnhd", weights, value), None


def stand_in_mask(*args, attention_mask=None, kv_length=None, **kwargs):
    """The 2D mask, or None where there is no padding, as `flash_attention_mask` has it."""
    if attention_mask is None or attention_mask.all():
        return None
    assert attention_mask.shape[1] == kv_length
    return attention_mask


@pytest.fixture(autouse=True)
def registered():
    AttentionInterface.register(KERNEL, stand_in)
    AttentionMaskInterface.register(KERNEL, stand_in_mask)
    calls.clear()
    yield
    for interface in (AttentionInterface, AttentionMaskInterface):
        interface._global_mapping.pop(KERNEL)


def both(inputs: dict, **overrides):
    """Outputs of one model with sdpa and with the stand-in."""
    torch.manual_seed(0)
    model = stir(PJVLTModel(build_tiny_config(**overrides)), std=0.05).eval()
    model.set_attn_implementation("sdpa")
    expected = model(**inputs)
    model.set_attn_implementation(KERNEL)
    return model(**inputs), expected


def inputs_of(lengths: list[int]) -> dict:
    """Sentences of these lengths, padded to the longest."""
    inputs = build_tiny_inputs(build_tiny_config(), batch=len(lengths), words=max(lengths))
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return {**inputs, "attention_mask": mask.long()}


@pytest.mark.parametrize("fusion", ["progressive", "early", "late"])
@pytest.mark.parametrize("lengths", [[7, 2, 5], [1, 4], [20, 3], [26, 9], [3]], ids=str)  # there are 20 patches
@torch.no_grad()
def test_unpadding_attention_equals_sdpa(lengths, fusion):
    ours, expected = both(inputs_of(lengths), fusion=fusion)
    assert_close(ours.last_hidden_state, expected.last_hidden_state, atol=2e-5, rtol=1e-3)
    assert_close(ours.score_map, expected.score_map, atol=2e-6, rtol=1e-4)


@torch.no_grad()
def test_padded_sentences_reach_the_kernel_packed():
    both(inputs_of([7, 2, 5]))
    assert calls == {
        ("PJVLTAttention", "dense"): 3,
        ("PJVLTSAIEL", "packed"): 3,
        ("BertSelfAttention", "mask"): 2,  # its queries are the words themselves
    }


@torch.no_grad()
def test_sentences_of_one_length_reach_the_kernel_as_they_are():
    both(inputs_of([5, 5]))
    assert calls == {("PJVLTAttention", "dense"): 3, ("PJVLTSAIEL", "dense"): 3, ("BertSelfAttention", "dense"): 2}


@torch.no_grad()
def test_encoded_text_with_padding_is_packed_too():
    inputs = inputs_of([7, 2])
    torch.manual_seed(0)
    model = stir(PJVLTModel(build_tiny_config()), std=0.05).eval()
    expected = model(**inputs)
    model.set_attn_implementation(KERNEL)
    text = model.encode_text(inputs.pop("input_ids"), inputs.pop("attention_mask"))
    assert_close(model(**inputs, text_features=text).score_map, expected.score_map, atol=2e-6, rtol=1e-4)
    assert calls["PJVLTSAIEL", "packed"] == 3


def test_gradients_flow_through_packed_words():
    inputs = inputs_of([7, 2, 5])
    results = []
    for implementation in ("sdpa", KERNEL):
        torch.manual_seed(0)
        model = stir(PJVLTModel(build_tiny_config()), std=0.05).eval()
        model.set_attn_implementation(implementation)
        model(**inputs).size_map.square().mean().backward()
        results.append({n: p.grad for n, p in model.named_parameters() if "saiel" in n or "text_encoder" in n})
    for key, expected in results[0].items():
        if expected is not None:
            assert_close(results[1][key], expected, atol=1e-6, rtol=1e-3, msg=lambda m, key=key: f"{key}: {m}")


def test_a_words_mask_given_as_it_is_would_drop_patches():
    """Why SAIEL packs: the contract takes six words' mask for that of twenty queries, and answers for six of them."""
    query, words = torch.randn(2, 2, 20, 4), torch.randn(2, 2, 6, 4)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    saiel = PJVLTModel(build_tiny_config()).encoder.saiels()[0]
    out, _ = stand_in(saiel, query, words, words, mask, 0.5)
    assert out[0, :6].any() and not out[:, 6:].any() and not out[1, 3:].any()


HUB_KERNEL = "kernels-community/flash-attn2"
KEPT_BY_TRANSFORMERS = [name for name in vars(modeling_flash_attention_utils) if re.fullmatch(r"_\w+_fn", name)]
KEPT_BY_TRANSFORMERS += ["_loaded_implementation"]


@pytest.fixture
def hub_kernel(monkeypatch):
    """A module in place of the kernel that transformers would fetch from the Hub; the rest of the way is its own."""
    kernel, loaded = ModuleType("flash_attn2"), []

    def varlen(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
    ):
        assert not causal and dropout_p == 0.0
        assert max_seqlen_q == cu_seqlens_q.diff().max() and max_seqlen_k == cu_seqlens_k.diff().max()
        calls["varlen"] += 1
        return attend_packed(q, k, v, cu_seqlens_q, cu_seqlens_k, softmax_scale)

    def dense(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
        assert not causal and dropout_p == 0.0
        calls["dense"] += 1
        weights = (torch.einsum("bnhd,bmhd->bhnm", q, k) * softmax_scale).softmax(dim=-1)
        return torch.einsum("bhnm,bmhd->bnhd", weights, v)

    kernel.flash_attn_varlen_func, kernel.flash_attn_func = varlen, dense

    def get_kernel(name, **options):
        loaded.append(name)
        return kernel

    monkeypatch.setattr(hub_kernels, "get_kernel", get_kernel)
    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda: True)
    monkeypatch.setattr("transformers.modeling_utils.is_kernels_available", lambda: True)
    for name in KEPT_BY_TRANSFORMERS:
        monkeypatch.setattr(modeling_flash_attention_utils, name, None)
    yield loaded
    for interface in (AttentionInterface, AttentionMaskInterface):
        interface._global_mapping.pop(HUB_KERNEL, None)


@pytest.mark.parametrize("lengths", [[7, 2, 5], [26, 9], [5, 5]], ids=str)
@torch.no_grad()
def test_kernel_that_is_named_by_its_place_on_the_hub_equals_sdpa(lengths, hub_kernel):
    inputs = inputs_of(lengths)
    torch.manual_seed(0)
    model = stir(PJVLTModel(build_tiny_config()), std=0.05).eval()
    model.set_attn_implementation("sdpa")
    expected = model(**inputs)
    model.set_attn_implementation(HUB_KERNEL)
    assert hub_kernel and set(hub_kernel) == {HUB_KERNEL}
    assert_close(model(**inputs).score_map, expected.score_map, atol=2e-6, rtol=1e-4)
    padded = len(set(lengths)) > 1
    assert calls == ({"dense": 3, "varlen": 5} if padded else {"dense": 8})  # 3 ViT layers, 3 SAIELs, 2 of BERT
