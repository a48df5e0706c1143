"""A client's round by Flower, and the same by the task that its file has become: says whether they are the same.

python client_round.py APP KIND, in Flower's environment; APP is a copy of examples/adapters/flower/app, to be changed.
"""

import json
import sys
from pathlib import Path
from time import time

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, Metadata, RecordDict
from flwr.common import EvaluateIns, FitIns, ndarrays_to_parameters, parameters_to_ndarrays

from deepledger.adapters.rows import Records
from deepledger.protocol.evaluation.task import Task, read_source

NUMPY_CLIENT = """
import torch
from digitsapp.task import Net, load_data, test, train
from flwr.client import ClientApp, NumPyClient

class FlowerClient(NumPyClient):
    def __init__(self, trainloader, valloader, epochs):
        self.net, self.trainloader, self.valloader, self.epochs = Net(), trainloader, valloader, epochs

    def set(self, parameters):
        names = self.net.state_dict().keys()
        self.net.load_state_dict({name: torch.tensor(value) for name, value in zip(names, parameters)}, strict=True)

    def fit(self, parameters, config):
        self.set(parameters)
        train(self.net, self.trainloader, self.epochs, config["lr"], torch.device("cpu"))
        arrays = [value.cpu().numpy() for value in self.net.state_dict().values()]
        return arrays, len(self.trainloader.dataset), {}

    def evaluate(self, parameters, config):
        self.set(parameters)
        loss, accuracy = test(self.net, self.valloader, torch.device("cpu"))
        return loss, len(self.valloader.dataset), {"accuracy": accuracy}

def client_fn(context):
    node = context.node_config
    trainloader, valloader = load_data(node["partition-id"], node["num-partitions"], context.run_config["batch-size"])
    return FlowerClient(trainloader, valloader, context.run_config["local-epochs"]).to_client()

app = ClientApp(client_fn)
"""
LINES = """
from deepledger import adapters
load_data = adapters.loaders(load_data)
TASK = adapters.flower(app, model=Net, run_config={"batch-size": 32, "local-epochs": 1}, config={"lr": 0.1})
"""
RUN, CONFIG = {"batch-size": 32, "local-epochs": 1}, {"lr": 0.1}


def by_flower(client, kind, net):
    """Arrays after training and what evaluation says, of partition 0 of 2."""
    context = Context(1, 0, {"partition-id": 0, "num-partitions": 2}, RecordDict(), RUN)
    if kind == "numpy":
        flower_client = client.client_fn(context)
        arrays = ndarrays_to_parameters([value.numpy() for value in net.state_dict().values()])
        evaluated = flower_client.evaluate(EvaluateIns(arrays, CONFIG))
        torch.manual_seed(5)
        flower_client = client.client_fn(context)  # for every message, as in Flower
        trained = parameters_to_ndarrays(flower_client.fit(FitIns(arrays, CONFIG)).parameters)
        return trained, evaluated.loss, evaluated.metrics["accuracy"]

    def ask(what):
        metadata = Metadata(1, "", 0, 0, "", "", time(), 100.0, what)
        content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "config": ConfigRecord(CONFIG)})
        return client.app(Message(content=content, metadata=metadata), context).content

    evaluated = ask("evaluate")["metrics"]
    torch.manual_seed(5)
    trained = [array.numpy() for array in ask("train")["arrays"].values()]
    return trained, evaluated["eval_loss"], evaluated["eval_acc"]


def main():
    app, kind = Path(sys.argv[1]), sys.argv[2]
    sys.path.insert(0, str(app))
    file = app / "digitsapp/client_app.py"
    if kind == "numpy":
        file.write_text(NUMPY_CLIENT)
    from digitsapp import client_app as client
    from digitsapp import task as app_task

    (app / "ours.py").write_text(file.read_text() + LINES)
    task = Task(read_source(app / "ours.py"))
    net = task.build_model(3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trained, loss, accuracy = by_flower(client, kind, net)
    parts = app_task.load_data(0, 2, 32)
    data, held_out = (
        Records({name: torch.stack([row[name] for row in part.dataset]) for name in ("img", "label")}) for part in parts
    )
    found = task.evaluate(net, held_out, seed=1)
    task.train(net, data, round=0, seed=5, hyperparameters={"local_epochs": 1, "lr": 0.1})
    same = [
        torch.equal(torch.from_numpy(theirs), ours)
        for theirs, ours in zip(trained, net.state_dict().values(), strict=True)
    ]
    print(
        json.dumps(
            {
                "changed": len(LINES.split("\n")) - 2,
                "arrays": len(same),
                "same": all(same),
                "moved": any(not torch.equal(before[name], value) for name, value in net.state_dict().items()),
                "losses": [loss, found.millionths["loss"] / 1e6],
                "accuracies": [accuracy, found.correct / found.samples],
                "samples": task.count_samples(data),
            }
        )
    )


if __name__ == "__main__":
    main()
