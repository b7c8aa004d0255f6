"""A bundle at work: crops to features, windows of features to predictions."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.bundle import Bundle, Preprocess
from common.errors import UsageError
from train.models.preprocess import normalise, prepare
from train.models.tcn_transformer import OUTPUTS, TemporalModel, TemporalOptions, activate
from train.models.vit import Encoder, EncoderOptions, set_fused_attention

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class ScoringModel:
    """An encoder and a temporal model per task, in evaluation mode.

    What a face or a window gets does not depend on what shares its batch: within 1e-4 in float32. In bfloat16 features
    (of unit variance) and predictions are within 0.1 of float32's, whatever the batch; on the 1,920 held-out faces of
    the demo the largest differences were 0.07 of a feature, 0.02 of valence and arousal, 0.07 of an expression's
    probability and 0.04 of an action unit's, and 0.7 % of the frames got another most probable expression.
    """

    def __init__(
        self,
        encoder: Encoder,
        heads: Mapping[str, TemporalModel],
        preprocess: Preprocess,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        self.preprocess = preprocess
        self._device = torch.device(device)
        self._dtype = DTYPES[dtype]
        self._encoder = encoder.to(self._device).eval()
        self._heads = {task: head.to(self._device).eval() for task, head in heads.items()}
        set_fused_attention(self._encoder, self._device.type != "cpu")

    def encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Aligned crops uint8 RGB [B, S, S, 3] -> features float32 [B, D]."""
        return self.features(prepare(crops, self.preprocess))

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Prepared pictures uint8 [B, C, s, s] -> features float32 [B, D]."""
        with torch.inference_mode(), self._precision():
            inputs = normalise(torch.from_numpy(images).to(self._device), self.preprocess)
            return _numpy(self._encoder(inputs))

    def heads(self, features: NDArray[np.float32], valid: NDArray[np.bool_]) -> dict[str, NDArray[np.float32]]:
        """Windows of features float32 [N, w, D] and valid bool [N, w] -> for each task float32 [N, w, K].

        Activated: va clipped to [-1, 1], expr and au probabilities, of the bundle's classes in their order. What stands
        where not valid means nothing.
        """
        with torch.inference_mode(), self._precision():
            windows = torch.from_numpy(features).to(self._device)
            mask = torch.from_numpy(valid).to(self._device)
            return {task: _numpy(activate(task, head(windows, mask).float())) for task, head in self._heads.items()}

    def _precision(self) -> AbstractContextManager:
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)


def load(bundle: Bundle, device: str = "cpu", dtype: str = "float32") -> ScoringModel:
    """The models of a bundle; dtype "float32" or "bfloat16". Raises UsageError for weights that do not fit."""
    manifest = bundle.manifest
    if manifest.encoder.kind != "vit":
        raise UsageError(f"the bundle {bundle.path} has an encoder of kind {manifest.encoder.kind!r}: upgrade mien")
    encoder = Encoder(EncoderOptions.model_validate(manifest.encoder.options))
    _restore(encoder, bundle, manifest.encoder.file)
    heads: dict[str, TemporalModel] = {}
    for task, part in manifest.temporal.items():
        outputs = OUTPUTS["va"] if task == "va" else len(manifest.classes[task])
        heads[task] = TemporalModel(TemporalOptions.model_validate(part.options), outputs)
        _restore(heads[task], bundle, part.file)
    return ScoringModel(encoder, heads, manifest.preprocess, device, dtype)


def _restore(model: nn.Module, bundle: Bundle, file: str) -> None:
    try:
        model.load_state_dict(bundle.tensors(file))
    except RuntimeError as error:
        raise UsageError(f"{file} of the bundle {bundle.path} does not fit its options: {error}") from None


def _numpy(values: Tensor) -> NDArray[np.float32]:
    return values.float().cpu().numpy()
