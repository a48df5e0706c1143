"""Handwritten digits with differential privacy of every image: DP-SGD, and a perceptron that takes noise well."""

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as f
from torch.utils.data import DataLoader, TensorDataset

from deepledger.privacy import make_private


def build_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))


def load_data(path):
    shard = load_file(path)
    return TensorDataset(shard["images"].float() / 16, shard["labels"].long())


def train(model, data, *, epochs, batch_size, learning_rate, noise_multiplier, clip_norm):
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    loader = DataLoader(data, batch_size=batch_size)
    optimizer, loader = make_private(model, optimizer, loader, noise_multiplier=noise_multiplier, clip_norm=clip_norm)
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            f.cross_entropy(model(images), labels).backward()
            optimizer.step()


def evaluate(model, data):
    images, labels = data.tensors
    logits = model(images)
    correct = int((logits.argmax(dim=1) == labels).sum())
    return {"samples": len(labels), "correct": correct, "loss": float(f.cross_entropy(logits, labels))}
