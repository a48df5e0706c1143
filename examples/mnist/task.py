"""MNIST: handwritten digits, 28 x 28 pixels, from shards that `prepare.py` makes of the original files."""

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as f
from torch.utils.data import DataLoader, TensorDataset


def build_model():
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10),
    )  # fmt: skip


def load_data(path):
    shard = load_file(path)
    return TensorDataset(shard["images"].float().unsqueeze(1) / 255, shard["labels"].long())


def train(model, data, *, epochs, batch_size, learning_rate, momentum):
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum)
    images, labels = data.tensors
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(batch_size):
            optimizer.zero_grad()
            f.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()


def evaluate(model, data):
    correct, loss = 0, 0.0
    for images, labels in DataLoader(data, batch_size=1000):
        logits = model(images)
        correct += int((logits.argmax(dim=1) == labels).sum())
        loss += float(f.cross_entropy(logits, labels, reduction="sum"))
    return {"samples": len(data), "correct": correct, "loss": loss / len(data)}
