"""All encoders and heads, by kind. A new one is a module with its options and network, and a line here."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

from common.bundle.folder import Bundle
from common.bundle.manifest import BundleManifest, Part
from common.errors import UsageError
from common.kinds import Kinds
from train.models.options import EncoderOptions, HeadOptions

ENCODERS: Kinds[EncoderOptions] = Kinds(
    "encoder",
    {
        "clip": "train.models.clip:ClipOptions",
        "mini_xception": "train.models.mini_xception:MiniXceptionOptions",
        "onnx": "train.models.onnx:OnnxOptions",
        "vit": "train.models.vit:VitOptions",
    },
)

HEADS: Kinds[HeadOptions] = Kinds(
    "head",
    {
        "dfer_clip": "train.models.dfer_clip:DferClipOptions",
        "linear": "train.models.linear:LinearOptions",
        "tcn_transformer": "train.models.tcn_transformer:TcnTransformerOptions",
    },
)

AnyEncoder = Annotated[EncoderOptions, ENCODERS]
"""A type for configurations: the options of an encoder of any kind."""
AnyHead = Annotated[HeadOptions, HEADS]
"""A type for configurations: the options of a head of any kind."""


def check_kinds(bundle: Bundle) -> None:
    """Raises UsageError for a bundle with an encoder or a head of an unknown kind."""
    _check(ENCODERS, bundle.manifest.encoder, bundle)
    for head in bundle.manifest.heads.values():
        _check(HEADS, head, bundle)


def import_networks(manifest: BundleManifest) -> None:
    """Imports the code of a bundle's networks, and what that code would import later."""
    for library in ENCODERS[manifest.encoder.kind].libraries:
        import_module(library)
    for head in manifest.heads.values():
        HEADS[head.kind]


def _check(kinds: Kinds[Any], part: Part, bundle: Bundle) -> None:
    if part.kind not in kinds:
        raise UsageError(
            f"the bundle {bundle.path} needs the {kinds.noun} kind {part.kind!r}, which this version of mien does not "
            "have: upgrade mien"
        )
