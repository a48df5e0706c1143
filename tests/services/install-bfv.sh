#!/bin/sh
# Builds deepledger-bfv, which encrypted jobs take, into tests/services/bin. Needs Go 1.23 or newer.
set -eu
services=$(dirname "$(readlink -f "$0")")
mkdir -p "$services/bin"
cd "$services/../../protocol/deepledger/protocol/bfv/program"
go build -trimpath -o "$services/bin/deepledger-bfv.$$" .
mv "$services/bin/deepledger-bfv.$$" "$services/bin/deepledger-bfv" # whole or not at all, even when two installs race
