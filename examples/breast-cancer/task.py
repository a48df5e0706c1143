"""Tumours, malignant or benign, from 30 measurements of cell nuclei. Hospitals train together and keep their patients.

The inputs are scaled by the ranges that the data set's own documentation states, so nobody has to pool data for it.
"""

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as f
from torch.utils.data import TensorDataset

LOW = torch.tensor([6.981, 9.71, 43.79, 143.5, .053, .019, 0, 0, .106, .05, .112, .36, .757, 6.802, .002, .002, 0, 0,
                    .008, .001, 7.93, 12.02, 50.41, 185.2, .071, .027, 0, 0, .156, .055])  # fmt: skip
HIGH = torch.tensor([28.11, 39.28, 188.5, 2501, .163, .345, .427, .201, .304, .097, 2.873, 4.885, 21.98, 542.2, .031,
                     .135, .396, .053, .079, .03, 36.04, 49.54, 251.2, 4254, .223, 1.058, 1.252, .291, .664,
                     .208])  # fmt: skip


def build_model():
    return nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))


def load_data(path):
    shard = load_file(path)
    return TensorDataset((shard["features"].float() - LOW) / (HIGH - LOW) * 2 - 1, shard["malignant"].long())


def train(model, data, *, epochs, batch_size, learning_rate, momentum):
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum)
    features, labels = data.tensors
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(batch_size):
            optimizer.zero_grad()
            f.cross_entropy(model(features[batch]), labels[batch]).backward()
            optimizer.step()


def evaluate(model, data):
    features, labels = data.tensors
    logits = model(features)
    correct = int((logits.argmax(dim=1) == labels).sum())
    return {"samples": len(labels), "correct": correct, "loss": float(f.cross_entropy(logits, labels))}
