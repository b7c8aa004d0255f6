"""RetinaFace (Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the Wild", 2019), with two backbones.

Feature pyramid, SSH modules, heads, priors, box code and the ResNet-50 network are retinaface-pytorch's. The network
with MobileNet-0.25 uses the same parts, for the weights that the original PyTorch version publishes. They were trained
on differently prepared pictures: ResNet-50 on RGB, normalised by ImageNet's mean and standard deviation; MobileNet on
BGR minus (104, 117, 123). Frames are shrunk to `max_side` if they are larger, but never enlarged or padded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from retinaface.box_utils import decode, decode_landm
from retinaface.net import FPN, SSH, conv_bn, conv_dw
from retinaface.network import RetinaFace
from retinaface.prior_box import priorbox
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import nms

from common import environment
from common.errors import UsageError
from ingest.detect import weights as detector_weights
from ingest.detect.detector import Faces, faces_of, shrunk

if TYPE_CHECKING:
    from ingest.detect.options import DetectorOptions

NMS_IOU = 0.4
VARIANCE = (0.1, 0.2)
PIXELS_PER_CALL = 8 * 640 * 360  # most pixels in one call of the network: limits its memory


@dataclass(frozen=True)
class Preparation:
    """How the network's training pictures were prepared: (channels - mean) / std, of values 0 to 255."""

    bgr: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Preparation(
    bgr=False, mean=(0.485 * 255, 0.456 * 255, 0.406 * 255), std=(0.229 * 255, 0.224 * 255, 0.225 * 255)
)
CAFFE = Preparation(bgr=True, mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0))


class Network(RetinaFace):
    """The package's network on any backbone `body` that gives feature maps at strides 8, 16 and 32."""

    def __init__(self, body: nn.Module, channels: list[int], out_channels: int) -> None:
        nn.Module.__init__(self)
        self.body = body
        self.fpn = FPN(channels, out_channels)
        self.ssh1, self.ssh2, self.ssh3 = (SSH(out_channels, out_channels) for _ in range(3))
        self.ClassHead = self._make_class_head(in_channels=out_channels)
        self.BboxHead = self._make_bbox_head(in_channels=out_channels)
        self.LandmarkHead = self._make_landmark_head(in_channels=out_channels)


class MobileNet(nn.Module):
    """MobileNet (Howard et al., 2017) at a quarter of its width: separable convolutions of 8 to 256 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(conv_bn(3, 8, 2, leaky=0.1), *_separable(8, 16, (32, 2), 32, (64, 2), 64))
        self.stage2 = nn.Sequential(*_separable(64, (128, 2), *[128] * 5))
        self.stage3 = nn.Sequential(*_separable(128, (256, 2), 256))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        first = self.stage1(pictures)
        second = self.stage2(first)
        return OrderedDict({"1": first, "2": second, "3": self.stage3(second)})


def _separable(channels: int, *layers: int | tuple[int, int]) -> Iterator[nn.Module]:
    """Depthwise separable convolutions. A layer is its channels, or (channels, stride); the default stride is 1."""
    for layer in layers:
        out, stride = layer if isinstance(layer, tuple) else (layer, 1)
        yield conv_dw(channels, out, stride)
        channels = out


def mobilenet_network() -> Network:
    """The MobileNet-0.25 network, with random weights."""
    return Network(MobileNet(), [64, 128, 256], 64)


def resnet_network() -> Network:
    """The package's ResNet-50 network, with random weights."""
    body = IntermediateLayerGetter(resnet50(weights=None), {"layer2": "1", "layer3": "2", "layer4": "3"})
    return Network(body, [512, 1024, 2048], 256)


def load(options: DetectorOptions) -> RetinaFaceDetector:
    """The detector with its weights. UsageError: there are none, or they do not fit; MienError: the download failed."""
    resnet = options.name == "retinaface_resnet50"
    path, sha256 = options.weights, options.weights_sha256
    if path is None and resnet:
        path, stated = detector_weights.download(_published(), detector_weights.cache_folder())
        sha256 = sha256 or stated
    if path is None:
        raise UsageError(f"the detector {options.name} needs a file of weights: name it by the option `weights`")
    network = resnet_network() if resnet else mobilenet_network()
    try:
        network.load_state_dict(detector_weights.read(path, sha256))
    except RuntimeError:
        raise UsageError(f"the weights in {path} do not fit the detector {options.name}") from None
    return RetinaFaceDetector(network, IMAGENET if resnet else CAFFE, options)


def _published() -> str:
    environment.NO_ALBUMENTATIONS_UPDATE.set_default("1")  # the next line imports albumentations
    from retinaface.pre_trained_models import models

    return models["resnet50_2020-07-20"].url


class RetinaFaceDetector:
    """`ingest.detect.detector.Detector` around a network and the preparation of its pictures."""

    def __init__(self, network: nn.Module, preparation: Preparation, options: DetectorOptions) -> None:
        self.options = options
        self.preparation = preparation
        self.dtype = getattr(torch, options.dtype)
        self.network = fold_batch_norm(network.eval()).to(self.dtype)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs

    @torch.inference_mode()
    def __call__(self, rgb: NDArray[np.uint8]) -> list[Faces]:
        if not len(rgb):
            return []
        pictures = shrunk(rgb, self.options.max_side)
        height, width = pictures.shape[1:3]
        step = max(1, PIXELS_PER_CALL // (height * width))
        faces: list[Faces] = []
        for start in range(0, len(rgb), step):
            outputs = (each.float() for each in self.network(self._prepare(pictures[start : start + step])))
            priors, frame = _priors(height, width), torch.tensor(rgb.shape[2:0:-1], dtype=torch.float32)
            faces += [self._faces(*one, priors=priors, frame=frame) for one in zip(*outputs, strict=True)]
        return faces

    def _prepare(self, rgb: NDArray[np.uint8]) -> Tensor:
        """uint8 [N, H, W, 3] -> [N, 3, H, W], whose memory is already channels-last."""
        pictures = torch.from_numpy(np.ascontiguousarray(rgb[..., ::-1] if self.preparation.bgr else rgb)).float()
        pictures = (pictures - torch.tensor(self.preparation.mean)) / torch.tensor(self.preparation.std)
        return pictures.permute(0, 3, 1, 2).to(self.dtype)

    def _faces(self, shifts: Tensor, logits: Tensor, points: Tensor, *, priors: Tensor, frame: Tensor) -> Faces:
        """Faces of one frame, of the size `frame` (width, height), from the network's outputs [A, 4], [A, 2], [A, 10]
        for the A priors."""
        scores = logits.softmax(-1)[:, 1]
        found = torch.where(scores > self.options.threshold)[0]
        boxes = decode(shifts[found], priors[found], VARIANCE) * frame.repeat(2)
        landmarks = decode_landm(points[found], priors[found], VARIANCE) * frame.repeat(5)
        keep = nms(boxes, scores[found], NMS_IOU)
        return faces_of(
            boxes[keep].numpy(), landmarks[keep].numpy(), scores[found][keep].numpy(), min_face=self.options.min_face
        )


@lru_cache(maxsize=8)
def _priors(height: int, width: int) -> Tensor:
    return priorbox([[16, 32], [64, 128], [256, 512]], [8, 16, 32], clip=False, image_size=(height, width))


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Folds each batch norm into the convolution before it, in place; looks into all children of the module."""
    children = list(module.named_children())
    for (name, child), (following, after) in zip(children, [*children[1:], ("", None)], strict=False):
        if isinstance(child, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(child, after))
            setattr(module, following, nn.Identity())
        else:
            fold_batch_norm(child)
    return module
