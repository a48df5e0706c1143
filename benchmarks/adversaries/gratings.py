"""Gratings: 16 x 16 pixels, ten classes, a small convolutional network."""

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as f
from torch.utils.data import TensorDataset


def build_model():
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def load_data(path):
    shard = load_file(path)
    return TensorDataset(shard["images"].float().unsqueeze(1) / 8 - 1, shard["labels"].long())


def train(model, data, *, epochs, batch_size, learning_rate, momentum):
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum)
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
