"""Trainers of others: what a job may say to them, what they write, and that all measure alike."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from deepledger import adapters
from deepledger.adapters.rows import Records
from deepledger.protocol.errors import BadInput

pytestmark = pytest.mark.slow  # to import them takes seconds
SAMPLES = 24


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x, labels):
        logits = self.layer(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, 4, generator=generator)
    return Records({"x": x, "labels": (x[:, 0] > 0).long()})


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """A script's, which keeps what it learns."""
    from transformers import Trainer, TrainingArguments

    folder = tmp_path_factory.mktemp("script")
    arguments = TrainingArguments(
        output_dir=str(folder / "out"), max_steps=2, save_steps=1, bf16=True, use_cpu=True, learning_rate=0.1
    )
    return Trainer(model=Classifier(), args=arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("push_to_hub", True),
        ("hub_model_id", "somebody/else"),
        ("output_dir", "elsewhere"),
        ("save_strategy", "steps"),
        ("report_to", "all"),
        ("seed", 42),
        ("deepspeed", "file.json"),
        ("fsdp", "full_shard"),
        ("resume_from_checkpoint", "elsewhere"),
        ("use_cpu", False),
    ],
)
def test_a_job_says_how_to_learn_and_nothing_else(trainer, rows, tmp_path, monkeypatch, name, value):
    monkeypatch.chdir(tmp_path)
    made = adapters.trainer(trainer)
    with pytest.raises(
        BadInput, match=rf"hyperparameters\.{name}: a Trainer in a job has no such option; it has learn"
    ):
        made.train(made.build_model(), rows, **{name: value})
    assert not list(tmp_path.iterdir())


def test_what_a_job_may_say_is_what_training_arguments_are_named():
    from transformers import TrainingArguments

    from deepledger.adapters.hugging_face import _ALIKE, _OPTIONS

    assert {*_OPTIONS, *_ALIKE} <= TrainingArguments.__dataclass_fields__.keys()
    assert not set(_OPTIONS) & _ALIKE.keys()


def test_a_trainer_saves_nothing_and_measures_in_full_precision(trainer, rows):
    made = adapters.trainer(trainer)
    model = made.build_model()
    before = copy.deepcopy(model.state_dict())
    made.train(model, rows, max_steps=3, learning_rate=0.5)
    assert not torch.equal(model.layer.weight, before["layer.weight"])
    with torch.no_grad():
        found = made.evaluate(model, rows)
        loss = float(model(rows.tensors["x"], rows.tensors["labels"])["loss"])
    assert found["loss"] == pytest.approx(loss, rel=1e-6)  # bf16, which the script trains in, has three digits
    assert not list(Path(trainer.args.output_dir).glob("*"))


@pytest.mark.parametrize("setting", [{"limit_val_batches": 1}, {"fast_dev_run": True}, {"overfit_batches": 1}])
def test_all_samples_are_measured_whatever_a_lightning_trainer_leaves_out(setting, rows):
    import lightning as L  # noqa: N812 (as everybody does)

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def training_step(self, batch):
            return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

        def validation_step(self, batch):
            assert self.device.type == "cpu"
            self.log("val_loss", nn.functional.cross_entropy(self.layer(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = TensorDataset(*rows.tensors.values())
    script = L.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, **setting)
    made = adapters.lightning(Module(), script, DataLoader(data, batch_size=5), load_data=adapters.columns("x", "y"))
    model = made.build_model().eval()
    with torch.no_grad():
        found = made.evaluate(model, data)
        loss = nn.functional.cross_entropy(model.layer(data.tensors[0]), data.tensors[1])
    assert found["samples"] == SAMPLES
    assert found["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_a_lightning_trainer_that_would_run_the_program_again_is_refused(rows):
    import lightning as L  # noqa: N812

    script = L.Trainer(accelerator="cpu", devices=2, logger=False, enable_checkpointing=False)
    made = adapters.lightning(L.LightningModule(), script, DataLoader(rows), load_data=adapters.columns("x", "y"))
    with pytest.raises(BadInput, match="would train in 2 processes"):
        made.train(made.build_model(), rows)
