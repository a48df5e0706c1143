#!/bin/sh
# Gives everybody on the devnet a home: an account in an encrypted keystore, its password in a file that only they can
# read, and participants their shard of the digits. Once: /job/coordinator, written last, says that it is done.
set -eu
[ ! -e /job/coordinator ] || exit 0
umask 077
shards=$(mktemp -d)
python /examples/digits/prepare.py --into "$shards" --participants 5

number=0 # of the account among the chain's own, whose keys are public
for name in sponsor coordinator participant-0 participant-1 participant-2 participant-3 participant-4; do
    home=/homes/$name
    rm -rf "$home/.deepledger"
    head -c 24 /dev/urandom | base64 >"$home/password"
    address=$(deepledger account import me --dev "$number" \
        --home "$home/.deepledger" --password-file "$home/password")
    case $name in
    coordinator) coordinator=$address ;;
    participant-*) cp "$shards/$name.safetensors" "$home/shard.safetensors" ;;
    esac
    number=$((number + 1))
done
echo "$coordinator" >/job/coordinator.part
mv /job/coordinator.part /job/coordinator
