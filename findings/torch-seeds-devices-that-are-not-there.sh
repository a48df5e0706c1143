#!/usr/bin/env bash
# torch 2.15.0 on a machine without an accelerator: torch.manual_seed called from functions that call each other.
# Guess: it seeds the one generator that there is, a microsecond wherever it is called from. What happens: for each of
# three kinds of device that are not there it notes what to seed should one appear, and with it the whole stack formatted
# as text; so that a seed costs hundreds of times as much as that of the generator, and the more the deeper the call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import timeit
import traceback

import torch

if torch.accelerator.is_available():
    raise SystemExit("this machine has an accelerator: nothing to see here")
formatted = []
format_stack = traceback.format_stack


def counting(*arguments, **options):
    stack = format_stack(*arguments, **options)
    formatted.append(len(stack))
    return stack


def below(frames, call):
    return call() if frames == 0 else below(frames - 1, call)


traceback.format_stack = counting
seed = torch.manual_seed(1).initial_seed()
shallow, formatted = formatted, []
traceback.format_stack = counting
below(60, lambda: torch.manual_seed(1))
deep, traceback.format_stack = formatted, format_stack
first, other = (torch.rand(4, generator=make.manual_seed(1)) for make in (torch.default_generator, torch.Generator()))


def milliseconds(call):
    return 1e3 * min(timeit.repeat(lambda: below(60, call), number=100, repeat=5)) / 100


print(f"torch {torch.__version__}: stacks that one torch.manual_seed formats, with their lines: {shallow} at the top, "
      f"{deep} below 60 calls")
print(f"below 60 calls: torch.manual_seed {milliseconds(lambda: torch.manual_seed(1)):.3f} ms, "
      f"torch.default_generator.manual_seed {milliseconds(lambda: torch.default_generator.manual_seed(1)):.3f} ms; "
      f"what is drawn is the same: {torch.equal(first, other)}")
seen = len(shallow) == len(deep) == 3 and deep > shallow and seed == 1 and torch.equal(first, other)
sys.exit(0 if seen else 1)
PYTHON
