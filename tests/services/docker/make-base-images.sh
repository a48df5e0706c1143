#!/bin/sh
# Gives the engine the images that docker-compose.yml and the Dockerfile begin with, under their own names: pulled where
# that works, otherwise made here of Debian's packages, npm's Foundry and a Kubo binary built from its Go module.
# `docker image inspect` tells which: those made here have the label deepledger.origin. Needs root and debootstrap.
set -eu
here=$(dirname "$(readlink -f "$0")")
services=$(dirname "$here")
pinned() { sed -n "s|^ *image: \(.*$1:.*\)\$|\1|p" "$here/../../../docker-compose.yml" | head -n 1; }
python=$(sed -n 's|^FROM \(python:[^ ]*\) AS uv$|\1|p' "$here/../../../Dockerfile")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

debian() {
    docker image inspect deepledger-test/debian >/dev/null 2>&1 && return
    debootstrap --variant=minbase --include=ca-certificates bookworm "$folder/root"
    cp /etc/ssl/certs/ca-certificates.crt "$folder/root/etc/ssl/certs/" # trust whom this machine trusts
    rm -rf "$folder"/root/var/cache/apt/archives/*.deb "$folder"/root/var/lib/apt/lists/* \
        "$folder"/root/usr/share/doc "$folder"/root/usr/share/man "$folder"/root/usr/share/locale
    tar --create --directory="$folder/root" . | docker import - deepledger-test/debian
    rm -rf "$folder/root"
}

have() { # an image's name, the folder of its Dockerfile, and what is copied into it
    image=$1 recipe=$2
    shift 2
    if docker image inspect "$image" >/dev/null 2>&1; then
        echo "$image: was there"
    elif timeout 600 docker pull --quiet "$image" 2>"$folder/refusal"; then
        echo "$image: pulled"
    else
        echo "$image: cannot be pulled ($(tail -n 1 "$folder/refusal")), so it is made here"
        debian
        mkdir "$folder/$recipe"
        cp "$here/images/$recipe/Dockerfile" "$folder/$recipe"
        for file; do cp --dereference "$services/bin/$file" "$folder/$recipe"; done
        docker build --quiet --label deepledger.origin="made locally" --tag "$image" "$folder/$recipe"
    fi
}

have "$python" python
have "$(pinned foundry)" foundry anvil cast
have "$(pinned kubo)" kubo ipfs
