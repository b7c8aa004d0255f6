"""The interface of every encoder and every head: a class of options that builds the network."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from common.config import Config
from common.windows import Windowing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from train.models.vit import DecoderOptions, MaskedAutoencoder


_BLOCK = re.compile(r"blocks\.(\d+)\.")


class EncoderOptions(Config, ABC):
    """An encoder, from pictures to features. Each kind declares `kind` as a `Literal` with its own name as default."""

    kind: str

    can_be_masked: ClassVar[bool] = False
    """Whether `autoencoder` builds a network that pretrains the encoder."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """What `build` imports and takes seconds to import: workers of one machine share it."""

    @property
    @abstractmethod
    def input(self) -> tuple[int, int]:
        """The pictures that the encoder takes: (channels, side in pixels)."""

    @property
    @abstractmethod
    def features(self) -> int:
        """D, the length of a feature."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The network, with random weights: pictures float [B, C, s, s] -> features float [B, D]."""

    def load(self, file: Path, device: str) -> nn.Module:
        """The network on `device`, with the weights in a file of a bundle.

        Raises RuntimeError or ValueError for weights that do not fit.
        """
        from safetensors.torch import load_file

        network = self.build()
        network.load_state_dict(load_file(file))
        return network.to(device)

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file of starting weights, in any layout that is known here, as `build`'s network names them.

        Tensors of an unknown layout keep their names. Raises ValueError, with the reason, for tensors of no use.
        """
        return tensors

    def autoencoder(self, decoder: DecoderOptions, mask_ratio: float) -> MaskedAutoencoder:
        """A network with the encoder as `.encoder` that rebuilds masked patches. Only if `can_be_masked`."""
        raise NotImplementedError


class VisionTransformerOptions(EncoderOptions):
    """What Vision Transformers have in common: how a picture becomes patches, and the size of what sees them."""

    image: int = Field(224, gt=0, description="side of the picture, px")
    patch: int = Field(16, gt=0, description="side of a patch, px")
    dim: int = Field(768, gt=0, description="width of a token")
    depth: int = Field(12, ge=1, description="blocks")
    heads: int = Field(12, ge=1, description="attention heads of a block")

    stem: ClassVar[tuple[str, ...]]
    """What the names of the parameters before the blocks begin with."""

    def above(self, parameter: str) -> int:
        """How many layers come after that of the parameter: the blocks, and what follows them as one."""
        if block := _BLOCK.search(parameter):
            return self.depth - int(block[1])
        return self.depth + 1 if parameter.startswith(self.stem) else 0

    @abstractmethod
    def drop_paths(self, network: nn.Module, rates: Sequence[float]) -> None:
        """Gives the residual branches of each block of the network this rate of `ranks.DropPath`."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.image % self.patch:
            raise ValueError(f"image {self.image} is not a multiple of patch {self.patch}")
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        return self


class HeadOptions(Config, ABC):
    """A head, from features to the values of a task. Each kind declares `kind` as a `Literal` with its own name."""

    kind: str
    windowing: Windowing | None
    """The windows that the head takes; None: single faces."""
    of_clips: ClassVar[bool] = False
    """Whether the head judges a window as a whole, and is trained together with its encoder."""

    @abstractmethod
    def build(self, features: int, outputs: int) -> nn.Module:
        """The network: features float [N, w, D] and valid bool [N, w] -> raw values [N, w, K].

        Each window has at least one valid position. w is the window's length, or 1 for single faces.
        """


def part(options: EncoderOptions | HeadOptions, name: str) -> dict[str, Any]:
    """The entry in a bundle's manifest for the network `name` that these options build."""
    chosen = options.model_dump(mode="json", exclude={"kind"})
    return {"kind": options.kind, "options": chosen, "file": weights_file(name)}


def weights_file(network: str) -> str:
    """The file of a bundle that holds the network's weights."""
    return f"{network}.safetensors"
