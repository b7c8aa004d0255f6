"""Runs the networks of a bundle: from crops to features, from features to predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from common.bundle.folder import Bundle
from common.bundle.manifest import Part, Preprocess
from common.config import explain
from common.errors import UsageError
from common.kinds import Kinds
from common.tasks import TASKS
from common.windows import Windowing
from train.models.options import EncoderOptions, HeadOptions
from train.models.preprocess import normalise, prepare
from train.models.registry import ENCODERS, HEADS, check_kinds

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Head:
    """The head of a task: its network, the names of its outputs in order, and its windows (None: single faces)."""

    network: nn.Module
    outputs: tuple[str, ...]
    windowing: Windowing | None


class ScoringModel:
    """An encoder and a head per task, in evaluation mode.

    Results do not depend on what else is in the batch: within 1e-4 in float32. In bfloat16, features (of unit variance)
    and predictions are within 0.1 of float32's. On the 1,920 held-out faces of the demo, the largest differences were
    0.07 for a feature, 0.02 for valence and arousal, 0.07 for an expression's probability and 0.04 for an action
    unit's; 0.7 % of the frames got another most probable expression.
    """

    def __init__(
        self,
        encoder: nn.Module,
        heads: Mapping[str, Head],
        preprocess: Preprocess,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        self.heads = dict(heads)
        self.preprocess = preprocess
        self._device = torch.device(device)
        self._dtype = DTYPES[dtype]
        self.encoder = encoder.to(self._device).eval()
        for head in self.heads.values():
            head.network.to(self._device).eval()

    def encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Aligned crops uint8 RGB [B, S, S, 3] -> features float32 [B, D]."""
        return self.features(prepare(crops, self.preprocess))

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Prepared pictures uint8 [B, C, s, s] -> features float32 [B, D]."""
        with torch.inference_mode(), self._precision():
            inputs = normalise(torch.from_numpy(images).to(self._device), self.preprocess)
            return _numpy(self.encoder(inputs))

    def predict(
        self, tasks: Iterable[str], features: NDArray[np.float32], valid: NDArray[np.bool_]
    ) -> dict[str, NDArray[np.float32]]:
        """features float32 [N, w, D] and valid bool [N, w] -> for each of the tasks float32 [N, w, K], activated.

        w is the window of the tasks' heads, or 1 for single faces; K is the number of the head's outputs. Values at
        positions that are not valid are meaningless.
        """
        with torch.inference_mode(), self._precision():
            inputs = torch.from_numpy(features).to(self._device)
            mask = torch.from_numpy(valid).to(self._device)
            values = {task: self.heads[task].network(inputs, mask).float() for task in tasks}
            return {task: _numpy(TASKS[task].activate(raw)) for task, raw in values.items()}

    def _precision(self) -> AbstractContextManager:
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)


def load(bundle: Bundle, device: str = "cpu", dtype: str = "float32") -> ScoringModel:
    """The networks of a bundle; dtype "float32" or "bfloat16".

    Raises UsageError for an unknown kind, for options that the kind does not have, and for weights that do not fit.
    """
    check_kinds(bundle)
    manifest = bundle.manifest
    options = _options(ENCODERS, manifest.encoder, bundle)
    try:
        encoder = options.load(bundle.path / manifest.encoder.file, device)
    except (RuntimeError, ValueError) as error:
        raise _misfit(manifest.encoder, bundle, error) from None
    heads: dict[str, Head] = {}
    for task, part in manifest.heads.items():
        chosen = _options(HEADS, part, bundle)
        try:
            network = chosen.build(options.features, len(part.outputs))
            network.load_state_dict(bundle.tensors(part.file))
        except (RuntimeError, ValueError) as error:
            raise _misfit(part, bundle, error) from None
        heads[task] = Head(network, part.outputs, chosen.windowing)
    return ScoringModel(encoder, heads, manifest.preprocess, device, dtype)


Options = TypeVar("Options", EncoderOptions, HeadOptions)


def _options(kinds: Kinds[Options], part: Part, bundle: Bundle) -> Options:
    chosen = kinds[part.kind]
    try:
        return chosen.model_validate({**part.options, "kind": part.kind})
    except ValidationError as error:
        problem = explain(error, chosen)[1]
        raise UsageError(
            f"the bundle {bundle.path} has a {kinds.noun} of kind {part.kind} with options that this version of mien "
            f"cannot use, {problem}: upgrade mien, or train it again with this version"
        ) from None


def _misfit(part: Part, bundle: Bundle, error: Exception) -> UsageError:
    return UsageError(f"{part.file} of the bundle {bundle.path} does not fit its options: {error}")


def _numpy(values: Tensor) -> NDArray[np.float32]:
    return values.float().cpu().numpy()
