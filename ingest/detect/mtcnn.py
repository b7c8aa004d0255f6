"""MTCNN (Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks", 2016).

Weights and conventions are facenet-pytorch's, and it finds the same faces. Here the cascade runs frame by frame, so the
faces of a frame cannot depend on its batch. One integral image per frame replaces a thousand small average pools: sums
of 8-bit values are exact in both, so the networks see the same numbers.

Within the cascade a box is x0, y0, x1, y1 and a score, in whole pixels counted from 1; both ends belong to the box, so
its width is x1 - x0 + 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ingest.detect.detector import Faces, faces_of, shrunk
from ingest.detect.mtcnn_networks import Network, nms
from ingest.detect.options import DetectorOptions

CELL, STRIDE = 12, 2  # pixels that the proposal network sees at each place, and from one place to the next
FACTOR = 0.709  # from one picture of the pyramid to the next
PROPOSE, REFINE = 0.6, 0.7  # scores that the first two networks must give, as published
# The last network sees its region cut at whole pixels, but its points refer to the region before it was cut. So they
# are on average half a pixel too far right and down (0.46 px, measured with 27 faces and their mirror images).
CUT_PX = 0.5


def load(options: DetectorOptions) -> Mtcnn:
    """The detector with its weights, which are installed with it."""
    return Mtcnn(min_face=options.min_face, threshold=options.threshold, max_side=options.max_side)


class Mtcnn:
    """`ingest.detect.detector.Detector` with facenet-pytorch's weights, on the CPU threads that the caller has set.

    min_face: smallest face in pixels; the time is proportional to its inverse square. threshold: lowest score of a
    face. max_side: larger frames are shrunk to this longer side, and searched for faces of `min_face` pixels of the
    shrunk picture: so no frame takes longer than one of this size.
    """

    def __init__(self, *, min_face: float, threshold: float, max_side: int) -> None:
        self.min_face = min_face
        self.threshold = threshold
        self.max_side = max_side
        self.propose, self.refine, self.output = (Network(name) for name in ("pnet", "rnet", "onet"))

    @torch.inference_mode()
    def __call__(self, rgb: NDArray[np.uint8]) -> list[Faces]:
        pictures = shrunk(rgb, self.max_side)
        to_frame = np.divide(rgb.shape[2:0:-1], pictures.shape[2:0:-1]).astype(np.float32)
        return [self._detect(picture, to_frame) for picture in pictures]

    def _detect(self, frame: NDArray[np.uint8], to_frame: NDArray[np.float32]) -> Faces:
        """The faces of a picture, in pixels of the frame, which is `to_frame` (x, y) times as large."""
        height, width = frame.shape[:2]
        sums = cv2.integral(frame, sdepth=cv2.CV_32S)
        boxes = self._proposals(sums, height, width)
        boxes, (shift, _) = self._judge(self.refine, sums, boxes, 24, REFINE)
        keep = nms(boxes[:, :4], boxes[:, 4], 0.7)
        boxes = _squared(_refined(boxes[keep], shift[keep]))
        boxes, (shift, points) = self._judge(self.output, sums, boxes, 48, self.threshold)
        corner, side = boxes[:, None, :2], boxes[:, None, 2:4] - boxes[:, None, :2] + 1
        landmarks = (corner + points.reshape(-1, 2, 5).transpose(1, 2) * side - 1).numpy() - np.float32(CUT_PX)
        found = _refined(boxes, shift).numpy()
        best = _without_parts(found, 0.7)
        found, landmarks = found[best], landmarks[best] * to_frame
        return faces_of(found[:, :4] * np.tile(to_frame, 2), landmarks, found[:, 4], min_face=self.min_face)

    def _proposals(self, sums: NDArray[np.int32], height: int, width: int) -> Tensor:
        """Square boxes [K, 5] with their scores, from the proposal network on a pyramid of the picture."""
        found = []
        for scale in _scales(min(height, width), self.min_face):
            size = int(height * scale + 1), int(width * scale + 1)
            picture = _area_means(sums, np.array([[0, 0, height, width]]), size)
            shift, scores = self.propose(picture)
            boxes = _proposed(shift[0], scores[0, 1], scale)
            found.append(boxes[nms(boxes[:, :4], boxes[:, 4], 0.5)])
        if not found:
            return torch.zeros(0, 5)
        boxes = torch.cat(found)
        boxes = boxes[nms(boxes[:, :4], boxes[:, 4], 0.7)]
        side = (boxes[:, 2:4] - boxes[:, :2]).repeat(1, 2)
        return _squared(torch.cat([boxes[:, :4] + boxes[:, 5:] * side, boxes[:, 4:5]], 1))

    def _judge(
        self, network: Network, sums: NDArray[np.int32], boxes: Tensor, size: int, threshold: float
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The boxes [K, 5] that score above `threshold`, with new scores; their shifts [K, 4]; landmarks [K, 10]."""
        x0, y0, x1, y1 = boxes[:, :4].int().numpy().T
        x0, y0 = np.maximum(x0, 1), np.maximum(y0, 1)
        x1, y1 = np.minimum(x1, sums.shape[1] - 1), np.minimum(y1, sums.shape[0] - 1)
        inside = (y1 >= y0) & (x1 >= x0)
        if not inside.any():
            return torch.zeros(0, 5), (torch.zeros(0, 4), torch.zeros(0, 10))
        regions = np.stack([y0 - 1, x0 - 1, y1, x1], 1)[inside]
        shift, *landmarks, scores = network(_area_means(sums, regions, (size, size)))
        keep = scores[:, 1] > threshold
        boxes = torch.cat([boxes[torch.from_numpy(inside)][keep, :4], scores[keep, 1:]], 1)
        points = landmarks[0] if landmarks else torch.zeros(len(scores), 10)
        return boxes, (shift[keep], points[keep])


def _scales(side: int, min_face: float) -> Sequence[float]:
    """Scales of the pyramid: the first shows a face of `min_face` pixels in one cell, the last the whole picture."""
    scale = CELL / min_face
    count = math.floor(math.log(CELL / (side * scale), FACTOR)) + 1 if side * scale >= CELL else 0
    return [scale * FACTOR**step for step in range(count)]


def _proposed(shift: Tensor, score: Tensor, scale: float) -> Tensor:
    """Where the proposal network sees a face: boxes with their scores and shifts [K, 9], in pixels of the frame.

    shift [4, h, w] and score [h, w] are its outputs for the frame scaled by `scale`.
    """
    places = (score >= PROPOSE).nonzero()
    corner = places.flip(1) * STRIDE
    first, last = ((corner + 1.0) / scale).floor(), ((corner + float(CELL)) / scale).floor()
    rows, columns = places.T
    return torch.cat([first, last, score[rows, columns, None], shift[:, rows, columns].T], 1)


def _refined(boxes: Tensor, shift: Tensor) -> Tensor:
    """The boxes, each end moved by `shift` [K, 4] times the box's side."""
    side = (boxes[:, 2:4] - boxes[:, :2] + 1).repeat(1, 2)
    return torch.cat([boxes[:, :4] + shift * side, boxes[:, 4:]], 1)


def _squared(boxes: Tensor) -> Tensor:
    """The boxes, grown to squares about their centres."""
    side = boxes[:, 2:4] - boxes[:, :2]
    longer = side.amax(1, keepdim=True)
    corner = boxes[:, :2] + side * 0.5 - longer * 0.5
    return torch.cat([corner, corner + longer, boxes[:, 4:]], 1)


def _without_parts(boxes: NDArray[np.float32], most: float) -> NDArray[np.intp]:
    """Indices of the boxes to keep, best first: the intersection of two is at most `most` of the smaller one."""
    area = np.prod(boxes[:, 2:4] - boxes[:, :2] + 1, axis=1)
    left = np.argsort(boxes[:, 4])[::-1]
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        first, last = np.maximum(boxes[best, :2], boxes[left, :2]), np.minimum(boxes[best, 2:4], boxes[left, 2:4])
        common = np.prod(np.maximum(last - first + 1, 0), axis=1)
        left = left[common / np.minimum(area[best], area[left]) <= most]
    return np.array(kept, np.intp)


def _area_means(sums: NDArray[np.int32], regions: NDArray[np.integer], size: tuple[int, int]) -> Tensor:
    """Regions [K, 4] (y0, x0, y1, x1; whole pixels) of a picture, each averaged to `size`, in [-1, 1]: float32
    [K, 3, *size]. Like torch's adaptive average pooling: output i is the mean of pixels floor(i n / m) to
    ceil((i + 1) n / m).

    sums: int32 [H + 1, W + 1, 3], the picture's integral image. It may overflow: differences are still right.
    """
    (top, bottom), (left, right) = (_cells(regions[:, axis], regions[:, axis + 2], size[axis]) for axis in (0, 1))
    # `take` copies the pixels of a row, or the channels of a pixel, as one piece: fancy indices take twice as long.
    height, width = sums.shape[:2]
    if len(regions) == 1:  # rows first, then columns: the whole picture, without a gather per pixel
        rows = sums.reshape(height, -1)
        rows = (rows.take(bottom[0], axis=0) - rows.take(top[0], axis=0)).reshape(-1, width, 3)
        total = (rows.take(right[0], axis=1) - rows.take(left[0], axis=1))[None]
    else:
        upper, lower = top[:, :, None] * width, bottom[:, :, None] * width
        first, last = left[:, None, :], right[:, None, :]
        pixels = sums.reshape(-1, 3)
        total = pixels.take(lower + last, axis=0)
        total -= pixels.take(upper + last, axis=0)
        total -= pixels.take(lower + first, axis=0)
        total += pixels.take(upper + first, axis=0)
    means = total.astype(np.float32)
    means /= ((bottom - top)[:, :, None] * (right - left)[:, None, :]).astype(np.float32)[..., None]
    means -= np.float32(127.5)
    means *= np.float32(1 / 128)
    return torch.from_numpy(means).permute(0, 3, 1, 2)


def _cells(start: NDArray, stop: NDArray, count: int) -> tuple[NDArray, NDArray]:
    length = (stop - start)[:, None]
    step = np.arange(count)[None]
    return start[:, None] + step * length // count, start[:, None] - (-(step + 1) * length) // count
