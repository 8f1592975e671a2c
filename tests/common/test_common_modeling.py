"""transformers' `ModelTesterMixin` on PJVLTModel."""

import tempfile
import unittest

import torch
from transformers import BertConfig
from transformers.testing_utils import torch_device
from transformers_tests.test_modeling_common import ModelTesterMixin

from modeling_pjvlt import PJVLTConfig, PJVLTModel


class PJVLTModelTester:
    """A tiny model and its inputs, under the names that the mixin looks for."""

    batch_size = 3
    seq_length = 20  # visual tokens, 4 of the template and 16 of the search region
    num_words = 7
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 2
    is_training = True
    text_config = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 37,
        "vocab_size": 99,
        "max_position_embeddings": 64,
    }

    def get_config(self) -> PJVLTConfig:
        return PJVLTConfig(
            text_config=BertConfig(**self.text_config),
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            patch_size=8,
            template_size=16,
            search_size=32,
            saiel_hidden_size=16,
            num_saiel_heads=2,
            pim_hidden_size=24,
            head_channels=(16, 8),
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[PJVLTConfig, dict[str, torch.Tensor]]:
        config = self.get_config()
        inputs = {
            "pixel_values": torch.rand(self.batch_size, 3, config.search_size, config.search_size),
            "template_pixel_values": torch.rand(self.batch_size, 3, config.template_size, config.template_size),
            "input_ids": torch.randint(1, self.text_config["vocab_size"], (self.batch_size, self.num_words)),
            "attention_mask": torch.ones(self.batch_size, self.num_words, dtype=torch.long),
        }
        return config, {name: value.to(torch_device) for name, value in inputs.items()}


class PJVLTModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (PJVLTModel,)
    additional_model_inputs = ("template_pixel_values", "input_ids")
    test_can_init_all_missing_weights_before_2023 = True  # our files carry no year: run the test all the same
    _is_composite = True

    def setUp(self):
        self.model_tester = PJVLTModelTester()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels:
            box = torch.tensor([0.4, 0.6, 0.3, 0.2], device=torch_device)  # cx, cy, w, h
            inputs["labels"] = box.repeat(self.model_tester.batch_size, 1)
        return inputs

    def test_sdpa_can_dispatch_composite_models(self):
        """As in the mixin, which leaves models with other towers than `vision_model` and `language_model` to us."""
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        with tempfile.TemporaryDirectory() as folder:
            PJVLTModel(config).save_pretrained(folder)
            for requested, expected in ((None, "sdpa"), ("sdpa", "sdpa"), ("eager", "eager")):
                model = PJVLTModel.from_pretrained(folder, attn_implementation=requested)
                layers = [
                    m for m in model.modules() if type(m).__name__.endswith("Attention") and hasattr(m, "config")
                ]
                self.assertGreater(len(layers), 0)
                for module in (model, model.text_encoder, *layers, *model.encoder.saiels()):
                    self.assertEqual(module.config._attn_implementation, expected)
