"""The steps of Lightning's introduction ("Lightning in 15 minutes"). Adapted: a classifier of scikit-learn's digits
where it has an autoencoder of MNIST, which would be a download, so that there is an accuracy to compare.
"""

import lightning as L  # noqa: N812 (as everybody does)
import torch
from sklearn.datasets import load_digits
from torch import nn, optim, utils

torch.manual_seed(0)
network = nn.Sequential(nn.Linear(8 * 8, 64), nn.ReLU(), nn.Linear(64, 10))


class LitClassifier(L.LightningModule):
    def __init__(self, network, learning_rate=1e-2):
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate

    def training_step(self, batch, batch_idx):  # noqa: ARG002
        x, y = batch
        loss = nn.functional.cross_entropy(self.network(x.flatten(1)), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):  # noqa: ARG002
        x, y = batch
        logits = self.network(x.flatten(1))
        self.log("val_loss", nn.functional.cross_entropy(logits, y))
        self.log("val_acc", (logits.argmax(dim=1) == y).float().mean())

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=self.learning_rate)


classifier = LitClassifier(network)

digits = load_digits()
images, labels = torch.tensor(digits.images / 16, dtype=torch.float32), torch.tensor(digits.target)
train_loader = utils.data.DataLoader(utils.data.TensorDataset(images[:1400], labels[:1400]), batch_size=32)
val_loader = utils.data.DataLoader(utils.data.TensorDataset(images[1400:], labels[1400:]), batch_size=32)

trainer = L.Trainer(limit_train_batches=100, max_epochs=3, logger=False, enable_checkpointing=False)
trainer.fit(model=classifier, train_dataloaders=train_loader)
print(f"Accuracy: {100 * trainer.validate(classifier, val_loader, verbose=False)[0]['val_acc']:.1f}%")
