"""DFER-CLIP once more: its tensors under the published names, and its forward pass as the description has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from torch import Tensor, einsum

WIDTH, SIDE, PATCH, FEATURES, FRAMES = 64, 16, 8, 32, 16  # CLIP's towers have a head for each 64 of their width
HEADS, DIM_HEAD = 8, 64  # of the temporal model
Tensors = dict[str, Tensor]


def clip_tensors() -> Tensors:
    """A small CLIP with random weights, under the names of OpenAI and open_clip."""
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int, scale: float = 0.15) -> Tensor:
        return scale * torch.randn(shape, generator=draw)

    tensors: Tensors = {
        "visual.class_embedding": random(WIDTH),
        "visual.positional_embedding": random(1 + (SIDE // PATCH) ** 2, WIDTH),
        "visual.proj": random(WIDTH, FEATURES),
        "visual.conv1.weight": random(WIDTH, 3, PATCH, PATCH),
        "positional_embedding": random(77, WIDTH),
        "token_embedding.weight": random(49408, WIDTH),
        "text_projection": random(WIDTH, FEATURES),
        "logit_scale": torch.tensor(4.6),
    }
    for norm in ("visual.ln_pre", "visual.ln_post", "ln_final"):
        tensors |= {f"{norm}.weight": 1 + random(WIDTH), f"{norm}.bias": random(WIDTH)}
    for block in ("visual.transformer.resblocks.0", "visual.transformer.resblocks.1", "transformer.resblocks.0"):
        for norm in ("ln_1", "ln_2"):
            tensors |= {f"{block}.{norm}.weight": 1 + random(WIDTH), f"{block}.{norm}.bias": random(WIDTH)}
        shapes = {
            "attn.in_proj_": (3 * WIDTH, WIDTH),
            "attn.out_proj.": (WIDTH, WIDTH),
            "mlp.c_fc.": (4 * WIDTH, WIDTH),
            "mlp.c_proj.": (WIDTH, 4 * WIDTH),
        }
        for name, shape in shapes.items():
            tensors |= {f"{block}.{name}weight": random(*shape), f"{block}.{name}bias": random(shape[0])}
    return tensors


def temporal_tensors(depth: int) -> Tensors:
    draw = torch.Generator().manual_seed(9)

    def random(*shape: int, scale: float = 0.2) -> Tensor:
        return scale * torch.randn(shape, generator=draw)

    tensors = {"cls_token": random(1, 1, FEATURES, scale=1), "pos_embedding": random(1, 1 + FRAMES, FEATURES, scale=1)}
    for number in range(depth):
        attention, perceptron = (f"temporal_transformer.layers.{number}.{half}.fn" for half in (0, 1))
        for half in (attention, perceptron):
            tensors |= {f"{half}.norm.weight": 1 + random(FEATURES), f"{half}.norm.bias": random(FEATURES)}
        tensors |= {
            f"{attention}.fn.to_qkv.weight": random(3 * HEADS * DIM_HEAD, FEATURES),
            f"{attention}.fn.to_out.0.weight": random(FEATURES, HEADS * DIM_HEAD),
            f"{attention}.fn.to_out.0.bias": random(FEATURES),
            f"{perceptron}.fn.net.0.weight": random(24, FEATURES),
            f"{perceptron}.fn.net.0.bias": random(24),
            f"{perceptron}.fn.net.3.weight": random(FEATURES, 24),
            f"{perceptron}.fn.net.3.bias": random(FEATURES),
        }
    return {f"temporal_net.{name}": tensor for name, tensor in tensors.items()}


def linear(x: Tensor, weight: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    return einsum("...i,oi->...o", x, weight) + bias


def norm(x: Tensor, tensors: Tensors, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, *, causal: bool = False) -> Tensor:
    """[B, T, heads * d] each -> the same, the heads side by side."""
    size = query.shape[-1] // heads
    mixed = []
    for head in range(heads):
        q, k, v = (each[..., head * size : (head + 1) * size] for each in (query, key, value))
        scores = einsum("bid,bjd->bij", q, k) / size**0.5
        if causal:
            later = torch.arange(scores.shape[-1])[None] > torch.arange(scores.shape[-1])[:, None]
            scores = scores.masked_fill(later, -torch.inf)
        mixed.append(einsum("bij,bjd->bid", scores.softmax(-1), v))
    return torch.cat(mixed, -1)


def clip_block(x: Tensor, tensors: Tensors, name: str, *, causal: bool) -> Tensor:
    y = linear(
        norm(x, tensors, f"{name}.ln_1"), *(tensors[f"{name}.attn.in_proj_{kind}"] for kind in ("weight", "bias"))
    )
    y = attention(*y.chunk(3, -1), WIDTH // 64, causal=causal)
    x = x + linear(y, *(tensors[f"{name}.attn.out_proj.{kind}"] for kind in ("weight", "bias")))
    y = linear(norm(x, tensors, f"{name}.ln_2"), *(tensors[f"{name}.mlp.c_fc.{kind}"] for kind in ("weight", "bias")))
    y = y * torch.sigmoid(1.702 * y)
    return x + linear(y, *(tensors[f"{name}.mlp.c_proj.{kind}"] for kind in ("weight", "bias")))


def image_features(tensors: Tensors, pictures: Tensor) -> Tensor:
    """[B, 3, s, s] -> [B, D]."""
    grid = SIDE // PATCH
    patches = pictures.reshape(-1, 3, grid, PATCH, grid, PATCH)
    x = einsum("bcyixj,ocij->byxo", patches, tensors["visual.conv1.weight"]).flatten(1, 2)
    x = torch.cat([tensors["visual.class_embedding"].expand(len(x), 1, -1), x], 1)
    x = norm(x + tensors["visual.positional_embedding"], tensors, "visual.ln_pre")
    for number in range(2):
        x = clip_block(x, tensors, f"visual.transformer.resblocks.{number}", causal=False)
    return einsum("bd,df->bf", norm(x[:, 0], tensors, "visual.ln_post"), tensors["visual.proj"])


def text_features(tensors: Tensors, prompts: Tensor, ends: Tensor) -> Tensor:
    """Vectors [K, 77, W], and the place of each one's end -> [K, D]."""
    x = clip_block(prompts + tensors["positional_embedding"], tensors, "transformer.resblocks.0", causal=True)
    x = norm(x, tensors, "ln_final")
    return torch.stack([row[end] for row, end in zip(x, ends, strict=True)]) @ tensors["text_projection"]


def clip_features(tensors: Tensors, frames: Tensor, depth: int) -> Tensor:
    """Features [N, 16, D] of frames -> [N, D] of clips."""
    if not depth:
        return frames.mean(1)
    x = torch.cat([tensors["temporal_net.cls_token"].expand(len(frames), -1, -1), frames], 1)
    x = x + tensors["temporal_net.pos_embedding"]
    for number in range(depth):
        one, two = (f"temporal_net.temporal_transformer.layers.{number}.{half}.fn" for half in (0, 1))
        y = linear(norm(x, tensors, f"{one}.norm"), tensors[f"{one}.fn.to_qkv.weight"])
        y = attention(*y.chunk(3, -1), HEADS)
        x = x + linear(y, tensors[f"{one}.fn.to_out.0.weight"], tensors[f"{one}.fn.to_out.0.bias"])
        y = linear(norm(x, tensors, f"{two}.norm"), tensors[f"{two}.fn.net.0.weight"], tensors[f"{two}.fn.net.0.bias"])
        y = 0.5 * y * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (y + 0.044715 * y**3)))
        x = x + linear(y, tensors[f"{two}.fn.net.3.weight"], tensors[f"{two}.fn.net.3.bias"])
    return x[:, 0]


def prompts(table: Tensor, texts: Sequence[str], context: Tensor, position: str) -> tuple[Tensor, Tensor]:
    """Vectors [K, 77, W] and ends [K]: in a text with a placeholder for each vector of context, these are replaced."""
    count = context.shape[-2]
    tokenized = open_clip.tokenize([" ".join(["x"] * count + [text]) for text in texts])
    rows = []
    for number, text in enumerate(texts):
        length = int((open_clip.tokenize([text])[0] > 0).sum()) - 2
        own = context if context.ndim == 2 else context[number]
        words = table[tokenized[number]]
        start, said, rest = words[:1], words[1 + count : 1 + count + length], words[1 + count + length :]
        half = count // 2
        order = {"front": [own, said], "middle": [own[:half], said, own[half:]], "end": [said, own]}[position]
        rows.append(torch.cat([start, *order, rest]))
    return torch.stack(rows), tokenized.argmax(-1)


def logits(clips: Tensor, texts: Tensor, temperature: float = 0.01) -> Tensor:
    """Features [N, D] of clips and [K, D] of texts -> [N, K]."""
    one, other = (each / each.square().sum(-1, keepdim=True).sqrt() for each in (clips, texts))
    return einsum("nd,kd->nk", one, other) / temperature


def checkpoint(tensors: Tensors, texts: Sequence[str], context: Tensor, depth: int = 1) -> dict[str, Any]:
    """What the authors' program saves, without the meter: its model, in which CLIP is twice, and its optimiser."""
    visual = {name.removeprefix("visual."): tensor for name, tensor in tensors.items() if name.startswith("visual.")}
    said = {
        n: t for n, t in tensors.items() if n.startswith(("positional", "text_projection", "transformer.", "ln_final"))
    }
    count = context.shape[-2]
    placed = open_clip.tokenize([" ".join(["X"] * count + [text]) for text in texts])
    embedded = tensors["token_embedding.weight"][placed]
    model = {
        "prompt_learner.ctx": context,
        "prompt_learner.token_prefix": embedded[:, :1],
        "prompt_learner.token_suffix": embedded[:, 1 + count :],
    }
    model |= {f"text_encoder.{name}": tensor for name, tensor in said.items()}
    model |= {f"image_encoder.{name}": tensor for name, tensor in visual.items()}
    model |= temporal_tensors(depth)
    model |= {f"clip_model_.{name}": tensor for name, tensor in tensors.items()}
    learning = [torch.nn.Parameter(tensor.clone()) for tensor in (context, *visual.values())]
    optimiser = torch.optim.SGD(learning, lr=1e-5, momentum=0.9, weight_decay=1e-4)
    for parameter in learning:
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    return {
        "epoch": 50,
        "state_dict": {f"module.{name}": tensor for name, tensor in model.items()},
        "best_acc": torch.tensor([71.2]),
        "optimizer": optimiser.state_dict(),
    }
