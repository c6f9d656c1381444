"""The common model tests of transformers on every class. What is left out or changed has its reason beside it."""

import unittest

import pytest
import torch
from torch import nn

from spectralgpt_hf import (
    SpectralGPTBackbone,
    SpectralGPTConfig,
    SpectralGPTForChangeDetection,
    SpectralGPTForImageClassification,
    SpectralGPTForPreTraining,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTModel,
)
from tests.common.fetch import common_tests


pytestmark = pytest.mark.slow

ModelTesterMixin = common_tests("test_modeling_common").ModelTesterMixin
BackboneTesterMixin = common_tests("test_backbone_common").BackboneTesterMixin
ConfigTester = common_tests("test_configuration_common").ConfigTester

BANDS = ["B2", "B3", "B4", "B8", "B11", "B12"]


class SpectralGPTModelTester:
    """Configuration and inputs in the form that the common tests ask for: 2 groups of 4 x 4 patch positions."""

    batch_size = 3
    image_size = 16
    patch_size = 4
    seq_length = 2 * 4 * 4
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    is_training = True

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent

    def get_config(self) -> SpectralGPTConfig:
        return SpectralGPTConfig(
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_channels=len(BANDS),
            bands=BANDS,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=64,
            decoder_hidden_size=16,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=32,
            decode_hidden_size=16,
            num_labels=2,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[SpectralGPTConfig, dict[str, torch.Tensor]]:
        pixel_values = torch.rand(self.batch_size, len(BANDS), self.image_size, self.image_size)
        return self.get_config(), {"pixel_values": pixel_values}


class CommonTests(ModelTesterMixin):
    """What holds for all of our classes."""

    test_resize_embeddings = False  # there is no vocabulary
    model_tester_class = SpectralGPTModelTester

    def setUp(self):
        self.model_tester = self.model_tester_class(self)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """Changed: add what each class takes beside an image; transformers goes by the names of its own classes."""
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        batch_size = len(inputs["pixel_values"])
        if model_class is SpectralGPTForPreTraining:
            generator = torch.Generator().manual_seed(0)  # without noise, each call would keep other tokens
            inputs["noise"] = torch.rand(batch_size, self.model_tester.seq_length, generator=generator)
        if model_class is SpectralGPTForChangeDetection:
            inputs["pixel_values_after"] = inputs["pixel_values"].flip(-1)
        if return_labels and model_class is SpectralGPTForImageClassification:
            inputs["labels"] = torch.zeros(batch_size, dtype=torch.long)
        if return_labels and model_class in (SpectralGPTForSemanticSegmentation, SpectralGPTForChangeDetection):
            inputs["labels"] = torch.zeros(batch_size, *inputs["pixel_values"].shape[-2:], dtype=torch.long)
        return inputs

    def test_model_get_set_embeddings(self):
        """Changed: the inputs are embedded by a linear layer, where the common test expects a vocabulary."""
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            assert isinstance(model.get_input_embeddings(), nn.Linear)
            replacement = nn.Linear(48, 32)
            model.set_input_embeddings(replacement)
            assert model.get_input_embeddings() is replacement
            assert model.get_output_embeddings() is None


class WithoutLossTester(SpectralGPTModelTester):
    is_training = False  # skips the tests that call `loss.backward()`: the encoder and the backbone have no loss


class SpectralGPTModelTest(CommonTests, unittest.TestCase):
    all_model_classes = (SpectralGPTModel,)
    model_tester_class = WithoutLossTester

    def test_config(self):
        tester = ConfigTester(self, config_class=SpectralGPTConfig, has_text_modality=False, hidden_size=48)
        tester.run_common_tests()


class PreTrainingTester(SpectralGPTModelTester):
    encoder_seq_length = 8  # a quarter of the tokens stays visible

    def get_config(self) -> SpectralGPTConfig:
        config = super().get_config()
        config.mask_ratio = 0.75
        return config


class SpectralGPTForPreTrainingTest(CommonTests, unittest.TestCase):
    all_model_classes = (SpectralGPTForPreTraining,)
    model_tester_class = PreTrainingTester


class SpectralGPTForImageClassificationTest(CommonTests, unittest.TestCase):
    all_model_classes = (SpectralGPTForImageClassification,)


class SpectralGPTForSemanticSegmentationTest(CommonTests, unittest.TestCase):
    all_model_classes = (SpectralGPTForSemanticSegmentation,)


class SpectralGPTForChangeDetectionTest(CommonTests, unittest.TestCase):
    all_model_classes = (SpectralGPTForChangeDetection,)

    def test_batching_equivalence(self):
        """Changed: the rows of hidden states are the first dates of all images, then the second ones."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        inputs = self._prepare_for_class(inputs, SpectralGPTForChangeDetection)
        config.output_hidden_states = True
        model = SpectralGPTForChangeDetection(config).eval()
        with torch.no_grad():
            batch = model(**inputs)
            row = model(**{name: value[:1] for name, value in inputs.items()})
        torch.testing.assert_close(batch.logits[:1], row.logits, rtol=1e-5, atol=1e-5)
        for of_batch, of_row in zip(batch.hidden_states, row.hidden_states):
            torch.testing.assert_close(of_batch[:: self.model_tester.batch_size], of_row, rtol=1e-5, atol=1e-5)


class SpectralGPTBackboneTest(BackboneTesterMixin, CommonTests, unittest.TestCase):
    all_model_classes = (SpectralGPTBackbone,)
    model_tester_class = WithoutLossTester
    config_class = SpectralGPTConfig

    @unittest.skip("takes the first output for a tensor; a backbone's is the tuple of feature maps")
    def test_retain_grad_hidden_states_attentions(self):
        pass
