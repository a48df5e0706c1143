#!/bin/sh
# A Docker engine that runs, with Compose: Debian's docker.io, Compose built from the pinned module next door, and the
# base images. Does nothing that is done already. Needs root on Debian, and leaves dockerd running.
set -eu
here=$(dirname "$(readlink -f "$0")")
plugins=/usr/local/lib/docker/cli-plugins

if ! command -v dockerd >/dev/null || ! command -v debootstrap >/dev/null; then
    apt-get update --quiet=2
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends \
        docker.io iptables debootstrap ca-certificates >/dev/null
fi

if ! docker compose version >/dev/null 2>&1; then
    version=$(sed -n 's|^.*github.com/docker/compose/v2 \(v[0-9.]*\).*$|\1|p' "$here/compose/go.mod")
    mkdir -p "$plugins"
    (cd "$here/compose" && go build -trimpath -ldflags "-s -w -X github.com/docker/compose/v2/internal.Version=$version" \
        -o "$plugins/docker-compose" github.com/docker/compose/v2/cmd)
fi

if ! docker info >/dev/null 2>&1; then
    setsid dockerd >/var/log/dockerd.log 2>&1 </dev/null &
    daemon=$!
    until docker info >/dev/null 2>&1; do
        kill -0 "$daemon" 2>/dev/null || { tail -n 5 /var/log/dockerd.log >&2; exit 1; }
        sleep 0.2
    done
fi
docker compose version
sh "$here/make-base-images.sh"
