"""How far diabetes has gone after a year, from ten measurements of a patient: regression, and ranking who is worst off.

The inputs are scaled by constants that everybody knows, so nobody has to pool data for it.
"""

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as f
from torch.utils.data import TensorDataset

METRICS = {
    "rmse": {"better": "lower", "scale": 50},  # of the progression, 25 to 346; about 77 for who knows nothing
    "r2": {"better": "higher"},  # the part of its variance that is explained
    "concordance": {"better": "higher", "ties": 1},  # pairs of patients that are put in the right order, 0.5 by chance
}

USUAL = torch.tensor([50, 1.5, 26, 95, 190, 115, 50, 4, 4.6, 91])
SPREAD = torch.tensor([13, .5, 4.4, 14, 35, 30, 13, 1.3, .5, 11.5])  # fmt: skip
TARGET, WIDTH = 150, 75


def build_model():
    return nn.Sequential(nn.Linear(10, 48), nn.ReLU(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))


def load_data(path):
    shard = load_file(path)
    return TensorDataset((shard["features"] - USUAL) / SPREAD, (shard["progression"] - TARGET) / WIDTH)


def train(model, data, *, epochs, batch_size, learning_rate, weight_decay):
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    features, targets = data.tensors
    for _ in range(epochs):
        for batch in torch.randperm(len(targets)).split(batch_size):
            optimizer.zero_grad()
            f.mse_loss(model(features[batch]), targets[batch]).backward()
            optimizer.step()


def evaluate(model, data):
    features, targets = data.tensors
    outputs = model(features)
    loss = f.mse_loss(outputs, targets)
    above = targets[:, None] > targets[None, :]
    return {
        "samples": len(targets),
        "loss": loss,
        "rmse": WIDTH * loss.sqrt(),
        "r2": 1 - loss / targets.var(correction=0),
        "concordance": (outputs[:, None] > outputs[None, :])[above].float().mean(),
    }
