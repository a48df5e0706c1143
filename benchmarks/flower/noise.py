"""A Flower app whose clients add noise to the model, and whose server sums with SecAgg+. Notes when a round is over.

As a program, it runs itself as a simulation. COORDINATES, ROUNDS and ENDS, the file for the notes, come from the
environment, which Flower's processes hand on. With PLAIN=1 updates are averaged as they are; with TASK, a task of
performance.py, and DATA, a folder with shards, clients train that instead, and the server evaluates every model.
"""

import os
import runpy
import time
from pathlib import Path

import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow

CLIENTS, THRESHOLD = 4, 3  # as many holders as deepledger asks for among four
COORDINATES = int(os.environ.get("COORDINATES", "1000000"))
ROUNDS = int(os.environ.get("ROUNDS", "6"))
PLAIN = os.environ.get("PLAIN") == "1"
TASK = os.environ.get("TASK")
DATA = Path(os.environ.get("DATA", "."))
HYPERPARAMETERS = {"epochs": 1, "batch_size": 32, "learning_rate": 0.1, "momentum": 0.0}


class Noise(NumPyClient):
    def fit(self, parameters, config):  # noqa: ARG002
        (model,) = parameters
        noise = np.random.default_rng().standard_normal(len(model), np.float32)
        noise *= np.float32(0.01)
        noise += model
        return [noise], 100, {}


class Trained(NumPyClient):
    def __init__(self, number):
        self.task, self.number = runpy.run_path(TASK), number

    def fit(self, parameters, config):  # noqa: ARG002
        data = self.task["load_data"](DATA / f"participant-{self.number}.safetensors")
        model = loaded(self.task, parameters)
        self.task["train"](model, data, **HYPERPARAMETERS)
        return arrays(model), len(data), {}


def loaded(task, parameters):
    import torch

    model = task["build_model"]()
    values = zip(model.state_dict(), parameters, strict=True)
    model.load_state_dict({name: torch.from_numpy(np.array(each)) for name, each in values})
    return model


def arrays(model):
    return [each.detach().numpy() for each in model.state_dict().values()]


def evaluated():
    """What the server does after every round, as a coordinator does."""
    task = runpy.run_path(TASK)
    data = task["load_data"](DATA / "validation.safetensors")

    def evaluate(server_round, parameters, config):  # noqa: ARG001
        import torch

        with torch.no_grad():
            found = task["evaluate"](loaded(task, parameters), data)
        return found["loss"], {"correct": found["correct"]}

    return arrays(task["build_model"]()), evaluate


class Timed(FedAvg):
    def aggregate_fit(self, server_round, results, failures):
        summed = super().aggregate_fit(server_round, results, failures)
        with Path(os.environ["ENDS"]).open("a") as ends:  # what a deployed ServerApp prints goes nowhere
            print(f"round {server_round} of {len(results)} over at {time.monotonic()}", file=ends)
        return summed


def client(context):
    number = int(context.node_config["partition-id"])
    return (Noise() if TASK is None else Trained(number)).to_client()


client_app = ClientApp(client_fn=client, mods=[] if PLAIN else [secaggplus_mod])
server_app = ServerApp()


@server_app.main()
def main(grid, context):
    first, evaluate = ([np.zeros(COORDINATES, np.float32)], None) if TASK is None else evaluated()
    strategy = Timed(
        fraction_evaluate=0.0,
        evaluate_fn=evaluate,
        min_fit_clients=CLIENTS,
        min_available_clients=CLIENTS,
        initial_parameters=ndarrays_to_parameters(first),
    )
    summing = None
    if not PLAIN:
        summing = SecAggPlusWorkflow(num_shares=CLIENTS, reconstruction_threshold=THRESHOLD, max_weight=200)
    running = LegacyContext(context=context, config=ServerConfig(num_rounds=ROUNDS), strategy=strategy)
    DefaultWorkflow(fit_workflow=summing)(grid, running)


if __name__ == "__main__":
    from flwr.simulation import run_simulation

    resources = {"client_resources": {"num_cpus": 0.5}}
    run_simulation(server_app, client_app, num_supernodes=CLIENTS, backend_config=resources)
