#!/bin/sh
# Gives everybody on the devnet a home: an account in an encrypted keystore, its password in a file that only they can
# read, and participants their shard of the digits. What is there is left alone.
set -eu
umask 077
shards=$(mktemp -d)
python /examples/digits/prepare.py --into "$shards" --participants 5

number=0 # of the account among the chain's own, whose keys are public
for name in sponsor coordinator participant-0 participant-1 participant-2 participant-3 participant-4; do
    home=/homes/$name
    if [ ! -e "$home/password" ]; then
        rm -rf "$home/.deepledger"
        head -c 24 /dev/urandom | base64 >"$home/password.part"
        deepledger account import me --dev "$number" --home "$home/.deepledger" --password-file "$home/password.part"
        mv "$home/password.part" "$home/password"
    fi
    if [ -e "$shards/$name.safetensors" ]; then
        cp "$shards/$name.safetensors" "$home/shard.safetensors"
    fi
    number=$((number + 1))
done
deepledger account list --json --home /homes/coordinator/.deepledger |
    python -c 'import json, sys; print(json.load(sys.stdin)[0]["address"])' >/job/coordinator
chmod 644 /job/coordinator
