"""What every encoder and every head has: a class of options that builds its network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from common.config import Config
from common.windows import Windowing

if TYPE_CHECKING:
    from torch import nn

    from train.models.vit import DecoderOptions, MaskedAutoencoder


class EncoderOptions(Config, ABC):
    """Pictures to features. A kind gives `kind` a `Literal` type and its own name as default."""

    kind: str

    can_be_masked: ClassVar[bool] = False
    """Whether `autoencoder` builds a network that pretrains the encoder."""

    @property
    @abstractmethod
    def input(self) -> tuple[int, int]:
        """The pictures that the encoder takes: channels, and side in pixels."""

    @property
    @abstractmethod
    def features(self) -> int:
        """Width of a feature."""

    @abstractmethod
    def build(self) -> nn.Module:
        """Pictures float [B, C, s, s] -> features float [B, D]."""

    def load(self, file: Path, device: str) -> nn.Module:
        """What `build` gives, on a device, with the weights in the file of a bundle.

        Raises RuntimeError or ValueError for weights that do not fit.
        """
        from safetensors.torch import load_file

        network = self.build()
        network.load_state_dict(load_file(file))
        return network.to(device)

    def autoencoder(self, decoder: DecoderOptions, mask_ratio: float) -> MaskedAutoencoder:
        """A network that holds the encoder as `.encoder` and rebuilds what is masked; only if `can_be_masked`."""
        raise NotImplementedError


class HeadOptions(Config, ABC):
    """Features to the values of a task. A kind gives `kind` a `Literal` type and its own name as default."""

    kind: str
    windowing: Windowing | None
    """The windows that the head takes; None: it takes each face by itself."""

    @abstractmethod
    def build(self, features: int, outputs: int) -> nn.Module:
        """features float [N, w, D] and valid bool [N, w] (one True a window at least) -> values [N, w, K], raw.

        w is the window, or 1 for a head that takes each face by itself.
        """


def part(options: EncoderOptions | HeadOptions, name: str) -> dict[str, Any]:
    """What a bundle's manifest says of the network `name` that these options build."""
    chosen = options.model_dump(mode="json", exclude={"kind"})
    return {"kind": options.kind, "options": chosen, "file": weights_file(name)}


def weights_file(network: str) -> str:
    """The file of a bundle that holds the network's weights."""
    return f"{network}.safetensors"
