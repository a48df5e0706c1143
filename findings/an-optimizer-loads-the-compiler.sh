#!/usr/bin/env bash
# torch 2.15.0 on a CPU: one step of plain SGD on a linear layer, which nothing compiles.
# Guess: torch.compile's parts are loaded where somebody compiles. What happens: that an optimizer is made loads Dynamo,
# Inductor, symbolic algebra (sympy) and Triton's front end, 900 modules of which an evaluation needs none. A process that
# trains takes nearly twice as long to start as one that has loaded torch, and TORCH_COMPILE_DISABLE changes nothing of it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
cat > "$folder/look.py" <<'PYTHON'
import sys
import time

begun = time.process_time()
import torch

loading = time.process_time() - begun
layer = torch.nn.Linear(4, 1)
with torch.no_grad():
    layer(torch.ones(2, 4))
layer(torch.ones(2, 4)).sum().backward()
before, begun = set(sys.modules), time.process_time()
optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
made = set(sys.modules)
optimizer.step()
optimizer.zero_grad()
stepping, after = time.process_time() - begun, set(sys.modules)
wanted = ("torch._dynamo", "torch._inductor", "sympy", "triton")
print(f"torch {torch.__version__}: import {loading:.2f} s of processor time; an SGD, a step and zero_grad {stepping:.2f} s")
print(f"modules loaded by making it: {len(made - before)}, by the step: {len(after - made)}")
for name in wanted:
    print(f"{name}: {name in before} before, {name in after} after")
print(f"compiled meanwhile: {torch._dynamo.utils.counters['frames'].get('total', 0)} frames")
heavy = {"torch._dynamo", "sympy"}
sys.exit(0 if not heavy & before and heavy <= after and len(after - before) > 500 else 1)
PYTHON
"$folder/venv/bin/python" "$folder/look.py"
echo "with TORCH_COMPILE_DISABLE=1:"
TORCH_COMPILE_DISABLE=1 "$folder/venv/bin/python" "$folder/look.py"
