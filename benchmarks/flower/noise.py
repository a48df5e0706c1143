"""A Flower app whose clients add noise to the model, and whose server sums with SecAgg+. Notes when a round is over.

As a program, it runs itself as a simulation. COORDINATES, ROUNDS and ENDS, the file for the notes, come from the
environment, which Flower's processes hand on.
"""

import os
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


class Noise(NumPyClient):
    def fit(self, parameters, config):  # noqa: ARG002
        (model,) = parameters
        noise = np.random.default_rng().normal(0, 0.01, len(model)).astype(np.float32)
        return [model + noise], 100, {}


class Timed(FedAvg):
    def aggregate_fit(self, server_round, results, failures):
        summed = super().aggregate_fit(server_round, results, failures)
        with Path(os.environ["ENDS"]).open("a") as ends:  # what a deployed ServerApp prints goes nowhere
            print(f"round {server_round} of {len(results)} over at {time.monotonic()}", file=ends)
        return summed


client_app = ClientApp(client_fn=lambda _: Noise().to_client(), mods=[secaggplus_mod])
server_app = ServerApp()


@server_app.main()
def main(grid, context):
    strategy = Timed(
        fraction_evaluate=0.0,
        min_fit_clients=CLIENTS,
        min_available_clients=CLIENTS,
        initial_parameters=ndarrays_to_parameters([np.zeros(COORDINATES, np.float32)]),
    )
    summing = SecAggPlusWorkflow(num_shares=CLIENTS, reconstruction_threshold=THRESHOLD, max_weight=200)
    running = LegacyContext(context=context, config=ServerConfig(num_rounds=ROUNDS), strategy=strategy)
    DefaultWorkflow(fit_workflow=summing)(grid, running)


if __name__ == "__main__":
    from flwr.simulation import run_simulation

    resources = {"client_resources": {"num_cpus": 0.5}}
    run_simulation(server_app, client_app, num_supernodes=CLIENTS, backend_config=resources)
