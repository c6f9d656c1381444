"""SpectralGPT, the spectral foundation model for Sentinel-2, for the Hugging Face ecosystem.

Importing the package registers its classes: afterwards `AutoModel`, `AutoImageProcessor` and the others know
`"spectralgpt"`.
"""

from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.modeling_auto import (
    AutoBackbone,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
)

from .modeling.bands import Band, Sensor
from .modeling.configuration_spectralgpt import SpectralGPTConfig
from .modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from .modeling.modeling_spectralgpt import (
    SpectralGPTBackbone,
    SpectralGPTForChangeDetection,
    SpectralGPTForImageClassification,
    SpectralGPTForPreTraining,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTModel,
)
from .modeling.pipeline_spectralgpt import register_pipelines


__version__ = "0.1.0"

AutoConfig.register("spectralgpt", SpectralGPTConfig)
AutoModel.register(SpectralGPTConfig, SpectralGPTModel)
AutoModelForPreTraining.register(SpectralGPTConfig, SpectralGPTForPreTraining)
AutoModelForImageClassification.register(SpectralGPTConfig, SpectralGPTForImageClassification)
AutoModelForSemanticSegmentation.register(SpectralGPTConfig, SpectralGPTForSemanticSegmentation)
# Transformers has no auto class for change detection; this one is free, and pipelines need one.
AutoModelForUniversalSegmentation.register(SpectralGPTConfig, SpectralGPTForChangeDetection)
AutoBackbone.register(SpectralGPTConfig, SpectralGPTBackbone)
# Both keys: the library picks one by whether torchvision is installed, and ours does not care.
AutoImageProcessor.register(
    SpectralGPTConfig,
    image_processor_classes={"pil": SpectralGPTImageProcessor, "torchvision": SpectralGPTImageProcessor},
)
register_pipelines()

__all__ = [
    "Band",
    "Sensor",
    "SpectralGPTBackbone",
    "SpectralGPTConfig",
    "SpectralGPTForChangeDetection",
    "SpectralGPTForImageClassification",
    "SpectralGPTForPreTraining",
    "SpectralGPTForSemanticSegmentation",
    "SpectralGPTImageProcessor",
    "SpectralGPTModel",
]
