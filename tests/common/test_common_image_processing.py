"""transformers' `ImageProcessingTestMixin` on PJVLTImageProcessor."""

import unittest
from unittest.mock import patch

from transformers_tests.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin

from modeling_pjvlt import PJVLTImageProcessor


class PJVLTImageProcessingTester(ImageProcessingTester):
    """Settings other than the defaults, and small crops of the random images that the mixin makes."""

    def __init__(self, parent, **kwargs):
        settings = {
            "template_size": 12,
            "search_size": 18,
            "template_factor": 2.5,
            "search_factor": 5.0,
            "do_rescale": True,
            "rescale_factor": 1 / 127,
            "do_normalize": True,
            "image_mean": [0.5, 0.4, 0.3],
            "image_std": [0.3, 0.4, 0.5],
        }
        super().__init__(parent, **(settings | kwargs))

    def _get_image_processing_classes(self):
        return {"torch": PJVLTImageProcessor}

    def expected_output_image_shape(self, images):
        return 3, self.search_size, self.search_size


class PJVLTImageProcessingTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = PJVLTImageProcessingTester
    test_cast_dtype = True

    def setUp(self):
        super().setUp()
        # Ours always converts to RGB; without this attribute the mixin would not test that.
        always = patch.object(PJVLTImageProcessor, "do_convert_rgb", True, create=True)
        always.start()
        self.addCleanup(always.stop)

    @unittest.skip("images always become RGB, which is what the model takes: a fourth channel is dropped")
    def test_call_numpy_4_channels(self):
        pass

    @unittest.skip("crops are resampled by a filter of our own in torch, so there is no torchvision backend")
    def test_new_models_require_torchvision_backend(self):
        pass
