"""Flower runs that are recorded, one after the other: python recorded_run.py APP JOB STRATEGY:FRACTION …, in Flower's
environment.

Chain, contract, store and account are the environment's. Leaves in results.json beside the job file, for each, the
digest of the arrays that Flower ended with and how accurate clients found them.
"""

import copy
import json
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp, strategy
from flwr.simulation import run_simulation

from deepledger import adapters

APP, JOB, RUNS = sys.argv[1], sys.argv[2], [word.split(":") for word in sys.argv[3:]]
CLIENTS, ROUNDS = 4, 2


class Configured(ClientApp):
    """With the run's configuration, which a simulation that is begun by a program does not have."""

    def __call__(self, message, context):
        sys.path.insert(0, APP)
        from digitsapp.client_app import app

        context = copy.copy(context)
        context.run_config = {"batch-size": 32, "local-epochs": 2}
        return app(message, context)


def main():
    sys.path.insert(0, APP)
    server = ServerApp()

    @server.main()
    def run(grid, context):
        from digitsapp.task import Net

        results = []
        for name, fraction in RUNS:
            chosen = getattr(strategy, name)(
                fraction_train=float(fraction), min_train_nodes=2, fraction_evaluate=1.0, min_available_nodes=CLIENTS
            )
            result = adapters.recorded(chosen, JOB).start(
                grid=grid,
                initial_arrays=ArrayRecord(Net().state_dict()),
                train_config=ConfigRecord({"lr": 0.1}),
                num_rounds=ROUNDS,
            )
            values = np.concatenate([array.numpy().ravel() for array in result.arrays.values()])
            accuracy = result.evaluate_metrics_clientapp[ROUNDS]["eval_acc"]
            results.append({"model": sha256(values.tobytes()).hexdigest(), "accuracy": accuracy})
        Path(JOB).with_name("results.json").write_text(json.dumps(results))

    resources = {"client_resources": {"num_cpus": 0.5}}
    run_simulation(server, Configured(), num_supernodes=CLIENTS, backend_config=resources)


if __name__ == "__main__":
    main()
