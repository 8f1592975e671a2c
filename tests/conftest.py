"""Fixtures that all tests share: tiny configs, models, inputs, a tokenizer, a processor, and a Hub on loopback.

The Hub's address has to be in the environment before the libraries that read it are imported. Nothing beyond loopback
is reached.
"""

import os
import signal

from hub_server import start_for_suite

os.environ.update(start_for_suite().variables())
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as the package sets it; tests import onnxruntime before the package does

import pytest
import torch
import yaml
from hypothesis import settings
from tiny import VOCABULARY, build_tiny_config, build_tiny_inputs, build_tiny_labels, build_tiny_model
from transformers import BertTokenizer

from modeling_pjvlt import PJVLTImageProcessor, PJVLTProcessor

torch.set_num_threads(1)  # more only wait for each other on tensors this small, and the tests have all cores
settings.register_profile("pjvlt", deadline=None)  # a busy machine must not fail a test
settings.load_profile("pjvlt")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in its background with it ignored


@pytest.fixture(scope="session")
def tiny_config():
    """Function: `tiny_config(**overrides)`, a config whose model runs in a millisecond."""
    return build_tiny_config


@pytest.fixture(scope="session")
def tiny_model():
    """Function: `tiny_model(seed=0, stirred=False, **config_overrides)`, a fresh seeded model in eval mode."""
    return build_tiny_model


@pytest.fixture(scope="session")
def tiny_inputs():
    """Function: `tiny_inputs(config, batch=2, words=6, seed=0)`, everything that the model's forward needs."""
    return build_tiny_inputs


@pytest.fixture(scope="session")
def tiny_labels():
    """Function: `tiny_labels(batch=2)`, boxes for `labels`."""
    return build_tiny_labels


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory):
    """A BERT tokenizer of 99 tokens that spells what it does not know; saved to a folder and loaded from it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary = {word: index for index, word in enumerate(VOCABULARY)}
    BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=40).save_pretrained(folder)
    return BertTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_processor(tiny_tokenizer):
    """A processor that fits `tiny_config()`."""
    return PJVLTProcessor(PJVLTImageProcessor(template_size=16, search_size=32), tiny_tokenizer)


@pytest.fixture
def hub():
    """The Hub on loopback, empty; whatever a test asks of it must have been known to it."""
    server = start_for_suite()
    server.reset()
    yield server
    assert not server.refused


@pytest.fixture
def isolated_cache(tmp_path, monkeypatch):
    """Keep the Arrow cache of `datasets` apart from that of other tests."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


@pytest.fixture
def recipe(tiny_config, tiny_tokenizer, tmp_path):
    """Path of a recipe that takes two steps with a tiny model."""
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = tiny_config()
    names = ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size"]
    names += ["template_size", "search_size", "saiel_hidden_size", "num_saiel_heads", "pim_hidden_size"]
    fields = {name: getattr(config, name) for name in names}
    text = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    values = {
        "output_dir": str(tmp_path / "run"),
        "tokenizer_name_or_path": str(tmp_path / "tokenizer"),
        "model_config": {**fields, "head_channels": [16, 8], "text_config": {**text, "intermediate_size": 64}},
        "max_train_steps": 2,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
