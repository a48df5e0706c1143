#!/bin/sh
# Builds go-ethereum's `geth` from the pinned module next door into tests/services/bin; does nothing when it is there.
set -eu
cd "$(dirname "$0")"
binary=../bin/geth
version=$(sed -n 's|^.*github.com/ethereum/go-ethereum v\([0-9.]*\).*$|\1|p' go.mod)

if [ -x "$binary" ] && "$binary" version | grep -q "^Version: $version"; then
    exit 0
fi
mkdir -p ../bin
go build -trimpath -o "$binary.$$" github.com/ethereum/go-ethereum/cmd/geth
mv "$binary.$$" "$binary" # whole or not at all, even when two installs race
