"""A small transformer that reads digits row by row, adapted by LoRA (Hu et al. 2022): the base is frozen, and only the
head and low-rank changes of the attention are trained.

Who has `data/base.safetensors` beside this file, as the sponsor does, builds the model on it. All others draw a base at
random, and get the sponsor's from the blob store, by its digest: frozen entries are pinned by the job.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as f
from torch.utils.data import TensorDataset

WIDTH, LAYERS, HEADS, RANK = 64, 2, 4, 4
BASE = Path(__file__).with_name("data") / "base.safetensors"


class LowRank(nn.Module):
    """A frozen layer, and a change of it of low rank, which is nothing at first."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(RANK, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x):
        return self.base(x) + x @ self.down.T @ self.up.T


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.value = LowRank(nn.Linear(WIDTH, WIDTH)), LowRank(nn.Linear(WIDTH, WIDTH))
        self.key, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        y = self.before(x)
        parts = self.query(y), self.key(y), self.value(y)
        heads = [part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts]
        x = x + self.out(f.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return x + self.narrow(f.gelu(self.wide(self.after(x))))


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = nn.Linear(8, WIDTH)
        self.places = nn.Parameter(torch.randn(8, WIDTH) / 10)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, images):
        return self.head(self.blocks(self.rows(images) + self.places).mean(dim=1))


def is_adapter(name):
    return name.startswith("head.") or name.rpartition(".")[2] in ("down", "up")


def build_model():
    model = Reader()
    if BASE.exists():
        model.load_state_dict(load_file(BASE), strict=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter(name))
    return model


def load_data(path):
    shard = load_file(path)
    return TensorDataset(shard["images"].float() / 16, shard["labels"].long())


def train(model, data, *, epochs, batch_size, learning_rate):
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=learning_rate)
    images, labels = data.tensors
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(batch_size):
            optimizer.zero_grad()
            f.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()


def evaluate(model, data):
    images, labels = data.tensors
    logits = model(images)
    correct = int((logits.argmax(dim=1) == labels).sum())
    return {"samples": len(labels), "correct": correct, "loss": float(f.cross_entropy(logits, labels))}
