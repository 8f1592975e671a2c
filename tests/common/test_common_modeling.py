"""transformers' `ModelTesterMixin` on PJVLTModel."""

import tempfile
import unittest

import torch
from tiny import build_tiny_config, build_tiny_inputs, build_tiny_labels
from transformers.testing_utils import torch_device
from transformers_tests.test_modeling_common import ModelTesterMixin

from modeling_pjvlt import PJVLTConfig, PJVLTModel


class PJVLTModelTester:
    """A tiny model and its inputs, under the names that the mixin looks for."""

    batch_size = 3
    seq_length = 20  # visual tokens, 4 of the template and 16 of the search region
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 2
    is_training = True

    def get_config(self) -> PJVLTConfig:
        return build_tiny_config(num_hidden_layers=self.num_hidden_layers, drop_path_rate=0.1)

    def prepare_config_and_inputs_for_common(self) -> tuple[PJVLTConfig, dict[str, torch.Tensor]]:
        config = self.get_config()
        inputs = build_tiny_inputs(config, self.batch_size)
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
            inputs["labels"] = build_tiny_labels(self.model_tester.batch_size).to(torch_device)
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
