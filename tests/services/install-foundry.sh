#!/bin/sh
# Leaves anvil, forge, cast and solc, at the versions of package-lock.json, in tests/services/bin. Needs node and npm.
# For Linux on x86-64; elsewhere put Foundry 1.7.1 on the PATH yourself, the tests look there as well.
set -eu
services=$(dirname "$(readlink -f "$0")")
cd "$services"

if ! cmp -s package-lock.json node_modules/.installed-lock; then
    # Without scripts: the packages are the executables themselves, there is nothing left to fetch.
    npm ci --ignore-scripts --no-audit --no-fund
    cp package-lock.json node_modules/.installed-lock
fi

mkdir -p bin
for tool in anvil forge cast; do
    ln -sf "../node_modules/@foundry-rs/$tool-linux-amd64/bin/$tool" "bin/$tool"
done
ln -sf ../solc bin/solc
for tool in anvil forge cast solc; do
    "bin/$tool" --version >/dev/null
done
echo "anvil, forge, cast and solc are in $services/bin"
