"""transformers' `ProcessorTesterMixin` on PJVLTProcessor."""

import unittest

from transformers import BertTokenizer
from transformers_tests.test_processing_common import ProcessorTesterMixin

from modeling_pjvlt import PJVLTImageProcessor, PJVLTProcessor

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lower", "newer", "upper", "older", "longer", "string"]


class PJVLTProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = PJVLTProcessor

    @classmethod
    def _setup_tokenizer(cls):
        return BertTokenizer(vocab={word: index for index, word in enumerate(VOCABULARY)})

    @classmethod
    def _setup_image_processor(cls):
        return PJVLTImageProcessor(template_size=16, search_size=32)

    def test_model_input_names(self):
        """As in the mixin, with the template that the mixin knows nothing of."""
        processor = self.get_processor()
        image = self.prepare_images_inputs()
        inputs = processor(images=image, template_images=image, text=self.prepare_text_inputs(), return_tensors="pt")
        self.assertEqual(set(inputs), set(processor.model_input_names))

    @unittest.skip("every sample of a tracker has an image")
    def test_processor_text_has_no_visual(self):
        pass
