#!/bin/sh
# Builds Kubo's `ipfs` from the pinned module next door into tests/services/bin; does nothing when it is there.
set -eu
cd "$(dirname "$0")"
binary=../bin/ipfs
version=$(sed -n 's|^.*github.com/ipfs/kubo v\([0-9.]*\).*$|\1|p' go.mod)

if [ -x "$binary" ] && [ "$("$binary" version --number)" = "$version" ]; then
    exit 0
fi
mkdir -p ../bin
go build -trimpath -o "$binary.$$" github.com/ipfs/kubo/cmd/ipfs
mv "$binary.$$" "$binary" # whole or not at all, even when two installs race
