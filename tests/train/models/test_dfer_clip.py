"""DFER-CLIP: equal to the model written from its description, for every variant; what learns, and what does not."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import open_clip
import published_clips
import pytest
import torch
from published_clips import FEATURES, FRAMES, SIDE, WIDTH, clip_features, image_features, logits, text_features
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import UsageError
from common.labels import ALL_EXPRESSIONS
from train.models import dfer_clip
from train.models.clip import ClipOptions
from train.models.dfer_clip import ClipWindowing, DferClip, DferClipOptions, LearnedTexts
from train.models.initial import InitialWeights
from train.models.prompts import PromptOptions, tokens
from train.models.text_tower import TextTower

CLASSES = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
ENCODER = ClipOptions(image=SIDE, patch=8, dim=WIDTH, depth=2, heads=1, projection=FEATURES)
TEXT = {"width": WIDTH, "depth": 1, "heads": 1}


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return published_clips.clip_tensors()


@pytest.fixture(scope="module")
def clip_file(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("clip") / "open_clip_model.safetensors"
    save_file(tensors, file)
    return file


def options(**changes: Any) -> DferClipOptions:
    return DferClipOptions(**{"text": TEXT, "mlp": 24} | changes)


def model(file: Path, chosen: DferClipOptions) -> DferClip:
    torch.manual_seed(0)
    built, _ = dfer_clip.build(ENCODER, chosen, CLASSES, InitialWeights(file=str(file)))
    return built


def clips(count: int = 3) -> Tensor:
    return torch.rand(count, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


def learned(built: DferClip) -> LearnedTexts:
    assert isinstance(built.classifier, LearnedTexts)
    return built.classifier


def context(built: DferClip) -> Tensor:
    found = learned(built).prompts.context
    assert found is not None
    return found


TEMPORAL_NAMES = {
    "token": "cls_token",
    "positions": "pos_embedding",
    "norm1": "0.fn.norm",
    "qkv": "0.fn.fn.to_qkv",
    "out": "0.fn.fn.to_out.0",
    "norm2": "1.fn.norm",
    "fc1": "1.fn.fn.net.0",
    "fc2": "1.fn.fn.net.3",
}


def set_temporal(built: DferClip, published: dict[str, Tensor]) -> None:
    own = {}
    for name, tensor in built.temporal.state_dict().items():
        steps = name.split(".")
        if steps[0] == "blocks":
            steps = ["temporal_transformer", "layers", steps[1], TEMPORAL_NAMES[steps[2]], *steps[3:]]
        else:
            steps = [TEMPORAL_NAMES[name]]
        own[name] = published[".".join(["temporal_net", *steps])].reshape(tensor.shape)
    built.temporal.load_state_dict(own)


def described(tensors: dict[str, Tensor], pictures: Tensor, depth: int) -> Tensor:
    frames = image_features(tensors, pictures.flatten(0, 1)).reshape(len(pictures), FRAMES, -1)
    return clip_features(tensors, frames, depth)


VARIANTS: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "shared, in the middle, two blocks": {
        "depth": 2,
        "prompts": {"context": 5, "specific": False, "position": "middle"},
    },
    "behind, three blocks": {"depth": 3, "prompts": {"context": 16, "position": "end"}},
    "names, mean of the frames": {"depth": 0, "prompts": {"text": "name", "context": 4, "specific": False}},
    "in the middle": {"prompts": {"position": "middle"}},
    "shared, behind": {"prompts": {"position": "end", "specific": False}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_gradients_are_those_of_the_description(
    variant: str, clip_file: Path, tensors: dict[str, Tensor]
) -> None:
    chosen = options(**VARIANTS[variant])
    built = model(clip_file, chosen)
    every = tensors | published_clips.temporal_tensors(chosen.depth)
    set_temporal(built, every)
    own = context(built).detach().clone().requires_grad_()
    every["visual.conv1.weight"] = every["visual.conv1.weight"].clone().requires_grad_()
    shared = own if chosen.prompts.specific else own[0]
    vectors, ends = published_clips.prompts(
        tensors["token_embedding.weight"], chosen.prompts.texts(CLASSES), shared, chosen.prompts.position
    )
    expected = logits(described(every, clips(), chosen.depth), text_features(every, vectors, ends))
    found = built(clips())
    assert expected.std() > 1  # else equal logits would say little
    torch.testing.assert_close(0.01 * found, 0.01 * expected, atol=1e-6, rtol=1e-5)

    wrong = torch.tensor([0, 3, 6])
    nn.functional.cross_entropy(expected, wrong).backward()
    nn.functional.cross_entropy(found, wrong).backward()
    for mine, theirs in ((context(built), own), (built.image.conv1.weight, every["visual.conv1.weight"])):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert theirs.grad.abs().max() > 1e-3
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-4 * float(theirs.grad.abs().max()), rtol=1e-3)


def test_co_coop_shifts_the_context_by_the_clip_s_feature(clip_file: Path, tensors: dict[str, Tensor]) -> None:
    chosen = options(depth=0, prompts={"text": "name", "context": 4, "specific": False, "conditional": True})
    built = model(clip_file, chosen)
    shift = {name: tensor for name, tensor in learned(built).state_dict().items() if name.startswith("shift.")}
    assert shift["shift.0.weight"].shape == (FEATURES // 16, FEATURES)
    expected = []
    for clip in described(tensors, clips(), 0):
        hidden = published_clips.linear(clip / clip.norm(), shift["shift.0.weight"], shift["shift.0.bias"]).clamp(min=0)
        moved = context(built)[0] + published_clips.linear(hidden, shift["shift.2.weight"], shift["shift.2.bias"])
        vectors, ends = published_clips.prompts(tensors["token_embedding.weight"], CLASSES, moved, "front")
        expected.append(logits(clip[None], text_features(tensors, vectors, ends)))
    torch.testing.assert_close(0.01 * built(clips()), 0.01 * torch.cat(expected), atol=1e-6, rtol=1e-5)


def test_zero_shot_compares_with_the_plain_text_and_learns_no_prompt(
    clip_file: Path, tensors: dict[str, Tensor]
) -> None:
    chosen = options(depth=0, prompts={"text": "template", "context": 0})
    built = model(clip_file, chosen)
    assert list(built.parts()) == ["image"]
    said = open_clip.tokenize([f"an expression of {name}." for name in CLASSES])
    texts = text_features(tensors, tensors["token_embedding.weight"][said], said.argmax(-1))
    expected = logits(described(tensors, clips(), 0), texts)
    torch.testing.assert_close(0.01 * built(clips()), 0.01 * expected, atol=1e-6, rtol=1e-5)


def test_a_linear_classifier_needs_no_text_tower(clip_file: Path, tensors: dict[str, Tensor]) -> None:
    built = model(clip_file, options(depth=0, classifier="linear"))
    assert not [part for part in built.modules() if isinstance(part, TextTower)]
    weight, bias = built.classifier.state_dict().values()
    expected = published_clips.linear(described(tensors, clips(), 0), weight, bias)
    torch.testing.assert_close(built(clips()), expected, atol=1e-5, rtol=1e-5)
    assert list(built.parts()) == ["image", "linear"]


@pytest.mark.parametrize("changes", [{}, {"prompts": {"context": 4, "conditional": True}}], ids=["context", "Co-CoOp"])
def test_gradients_reach_all_that_learns_and_none_the_text_tower(clip_file: Path, changes: dict[str, Any]) -> None:
    built = model(clip_file, options(**changes))
    assert list(built.parts()) == ["image", "temporal", "prompt"]
    nn.functional.cross_entropy(built(clips()), torch.tensor([0, 3, 6])).backward()
    learning = [parameter for parameters in built.parts().values() for parameter in parameters]
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in learning)
    frozen = list(learned(built).tower.parameters())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen)
    assert {id(p) for p in built.parameters()} == {id(p) for p in learning} | {id(p) for p in frozen}


def test_the_text_tower_runs_once_a_step_and_never_in_the_head_for_scoring(clip_file: Path) -> None:
    built = model(clip_file, options())
    calls: list[int] = []
    learned(built).tower.register_forward_hook(lambda tower, given, result: calls.append(len(given[0])))
    expected = built(clips())
    assert calls == [len(CLASSES)]  # all classes at once, whatever the number of clips
    head = built.head().eval()
    assert calls == [len(CLASSES)] * 2
    features = built.image(clips().flatten(0, 1)).unflatten(0, (3, FRAMES))
    found = head(features, torch.ones(3, FRAMES, dtype=torch.bool))
    assert calls == [len(CLASSES)] * 2
    assert not [part for part in head.modules() if isinstance(part, TextTower)]
    torch.testing.assert_close(found, expected[:, None].expand(-1, FRAMES, -1), atol=1e-4, rtol=1e-5)


def test_positions_without_a_frame_show_the_last_one_before_them(clip_file: Path) -> None:
    head = model(clip_file, options()).head()
    features = torch.randn(2, FRAMES, FEATURES, generator=torch.Generator().manual_seed(1))
    valid = torch.ones(2, FRAMES, dtype=torch.bool)
    valid[0, 11:], valid[1, 4:6] = False, False
    filled = features.clone()
    filled[0, 11:], filled[1, 4:6] = features[0, 10], features[1, 3]
    features[~valid] = torch.nan
    torch.testing.assert_close(head(features, valid), head(filled, torch.ones_like(valid)))


@pytest.mark.parametrize("layout", ["open_clip's other", "OpenAI's", "FaRL's"])
def test_both_towers_start_from_every_published_layout(
    layout: str, tmp_path: Path, clip_file: Path, tensors: dict[str, Tensor]
) -> None:
    file = tmp_path / "clip.pth"
    published = dict(tensors)
    if layout == "OpenAI's":  # in half precision, with its three numbers
        published = {name: tensor.half() for name, tensor in tensors.items()}
        published |= {name: torch.tensor(77) for name in ("input_resolution", "context_length", "vocab_size")}
    elif layout == "FaRL's":  # beside the towers, what its masked pretraining had
        extra = ("lm_transformer.resblocks.0.ln_1.weight", "ln_lm.weight", "lm_head.weight", "mask_token")
        published |= {f"visual.{name}": torch.ones(WIDTH) for name in extra}
    else:
        published = {n if n.startswith(("visual.", "logit_")) else f"text.{n}": t for n, t in tensors.items()}
    torch.save({"state_dict": published}, file)
    tolerance = 0.02 if layout == "OpenAI's" else 0.0
    found, expected = (model(each, options()).state_dict() for each in (file, clip_file))
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_a_file_without_a_text_tower_is_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: t for name, t in tensors.items() if name.startswith("visual.")}, tmp_path / "image.safetensors")
    with pytest.raises(UsageError, match=r"do not fit .*: it lacks text\.positional_embedding, .*"):
        model(tmp_path / "image.safetensors", options())


def test_towers_of_one_clip_have_one_kind_of_gelu(clip_file: Path) -> None:
    with pytest.raises(UsageError, match="quick_gelu of the encoder and of its head's text should be the same"):
        model(clip_file, options(text=TEXT | {"quick_gelu": False}))


# --- the classes' texts


def test_mien_describes_every_class_briefly_enough_for_16_vectors_of_context() -> None:
    described = tokens([name for name in ALL_EXPRESSIONS if name != "other"], PromptOptions(context=16))
    assert len(described) == 11
    assert min(map(len, described)) > 12
    assert len({tuple(each) for each in described}) == 11


def test_nothing_is_fetched_from_the_network(clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model(clip_file, options())(clips(1))


def test_a_prompt_that_is_too_long_is_refused_by_its_class() -> None:
    texts = dict.fromkeys(CLASSES, "a face.") | {"anger": "angry " * 68}
    assert len(tokens(CLASSES, PromptOptions(context=7, descriptions=texts))[3]) == 70
    with pytest.raises(
        UsageError, match="prompt of the class anger has 78 tokens, 8 of them context, and CLIP takes 77"
    ):
        tokens(CLASSES, PromptOptions(context=8, descriptions=texts))


def test_descriptions_come_from_a_file_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("happiness: a grin\nsadness: tears\n")
    chosen = PromptOptions(descriptions=str(file))
    assert chosen.texts(["sadness", "happiness"]) == ["tears", "a grin"]
    with pytest.raises(UsageError, match=r"prompts\.descriptions has no text for the class fear"):
        chosen.texts(["happiness", "fear"])
    file.unlink()
    assert PromptOptions(**chosen.model_dump(mode="json")) == chosen  # a bundle needs the file no more


def test_the_options_of_a_bundle_state_the_texts_in_full() -> None:
    stated = options().stated(CLASSES, 2.0)
    assert list(stated.prompts.descriptions or {}) == list(CLASSES)
    assert stated.prompts.texts(CLASSES) == PromptOptions().texts(CLASSES)
    assert PromptOptions(text="name").stated(CLASSES) == PromptOptions(text="name")


def test_the_options_of_a_bundle_state_how_long_its_clips_are() -> None:
    assert DferClipOptions().stated(CLASSES, 2.0).windowing.fps == 8.0
    told = DferClipOptions(windowing=ClipWindowing(fps=5.0))
    assert told.stated(CLASSES, 2.0).windowing.fps == 5.0
    with pytest.raises(UsageError, match=r"single frames: say with clips\.model\.windowing\.fps"):
        DferClipOptions().stated(CLASSES, 0.0)
    with pytest.raises(ValueError, match=r"windowing\.fps is null"):
        DferClipOptions().build(8, 7)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"descriptions": "none.yaml"}, r"cannot be read: No such file"),
        ({"descriptions": "broken.yaml"}, "is no YAML file"),
        ({"descriptions": "list.yaml"}, "should hold a text for each class"),
        ({"template": "a face"}, r"template should have \{\} where the name of the class goes"),
        ({"conditional": True, "context": 0}, "conditional prompts need a context"),
    ],
)
def test_wrong_prompts_are_refused_in_a_sentence(
    wrong: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ValidationError, match=sentence):
        PromptOptions(**wrong)
