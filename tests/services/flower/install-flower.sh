#!/usr/bin/env sh
# Flower, with this checkout, in an environment of its own: it wants older versions (starlette, protobuf, ray) than
# constraints.txt pins. Run again after a change of pyproject.toml.
set -eu
cd "$(dirname "$0")/../../.."
make --silent .venv/.installed
into=tests/services/flower/.venv
.venv/bin/uv venv --quiet --allow-existing "$into"
.venv/bin/uv pip install --quiet --python "$into/bin/python" -c tests/services/flower/constraints.txt \
    -e '.[node,coordinator,devnet,examples,flower]' 'flwr[simulation]' pytest pytest-timeout hypothesis
