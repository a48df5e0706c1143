"""The steps of the Transformers quickstart for Trainer. Adapted: a ViT made from a configuration and scikit-learn's
digits, where it loads a pretrained model and a data set from a hub.
"""

import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from deepledger import adapters

torch.manual_seed(0)
model = ViTForImageClassification(
    ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=10,
    )
)

digits = load_digits()
images, labels = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1), torch.tensor(digits.target)
samples = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]
dataset = {"train": samples[:1400], "test": samples[1400:]}


def compute_metrics(prediction):
    return {"accuracy": float((prediction.predictions.argmax(axis=-1) == prediction.label_ids).mean())}


training_args = TrainingArguments(
    output_dir="digits-vit",
    learning_rate=3e-3,
    per_device_train_batch_size=16,
    per_device_eval_batch_size=64,
    num_train_epochs=8,
    save_strategy="no",
)

trainer = Trainer(
    model=model,
    args=training_args,
    train_dataset=dataset["train"],
    eval_dataset=dataset["test"],
    compute_metrics=compute_metrics,
)

TASK = adapters.trainer(trainer)
trainer.train()
print(f"Accuracy: {100 * trainer.evaluate()['eval_accuracy']:.1f}%")
