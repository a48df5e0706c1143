#!/bin/sh
# Builds the dashboard's page and leaves what its tests drive it with: Debian's Chromium, and Playwright in the venv.
# Needs npm, and root where Chromium is not there yet. Its derivations run on the Node.js of hardhat/install-hardhat.sh.
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."

make dashboard
command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }
make .venv/.installed
.venv/bin/uv pip install --quiet --python .venv/bin/python -c constraints.txt -e '.[browser]'
chromium --version 2>/dev/null
