#!/usr/bin/env bash
# Kubo 0.43.0: two daemons of a private network without routing, connected to each other; one lists the other as peer.
# Guess: they are connected, so each gets the other's blocks. What happens: the daemon that is listed, but lists nobody,
# is never sent a block by the other, because it never asks. Since 0.36 a daemon asks only those for a block whom it lists
# as peers, who have sent it blocks before, or who announce a private address; on one machine or one LAN nobody notices.
set -euo pipefail
version=v0.43.0
folder=$(mktemp -d)
started=()
trap 'for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done; wait; rm -rf "$folder"' EXIT
cd "$folder"

printf 'module finding\n\ngo 1.24\n' > go.mod
go get "github.com/ipfs/kubo/cmd/ipfs@$version" 2> go.log || { cat go.log; exit 2; }
go build -trimpath -o ipfs github.com/ipfs/kubo/cmd/ipfs
./ipfs version

on() { IPFS_PATH="$folder/$1" ./ipfs "${@:2}"; }
key=$(od -An -tx1 -N32 /dev/urandom | tr -d ' \n')
for name in listed lister; do
    on $name init --profile=test > /dev/null # loopback ports that are free, no bootstrap, no mDNS
    printf '/key/swarm/psk/1.0.0/\n/base16/\n%s\n' "$key" > "$folder/$name/swarm.key"
    on $name config Routing.Type none
    on $name config --json AutoConf.Enabled false
    on $name config --json Routing.DelegatedRouters '[]'
    on $name config --json Ipns.DelegatedPublishers '[]'
    on $name config --json Addresses.Swarm '["/ip4/127.0.0.1/tcp/0"]'
done
# What a machine with a public address announces of itself (the address is of a block kept for documentation).
on lister config --json Addresses.Announce '["/ip4/203.0.113.2/tcp/4001"]'

begin() {
    IPFS_PATH="$folder/$1" ./ipfs daemon > "$1.log" 2>&1 &
    started+=($!)
    until grep -qs 'Daemon is ready' "$1.log"; do sleep 0.2; done
}
begin listed
id=$(on listed id --format '<id>')
address=$(on listed swarm addrs listen | head -n 1)
on lister config --json Peering.Peers "[{\"ID\": \"$id\", \"Addrs\": [\"$address\"]}]"
begin lister
until on listed swarm peers | grep -q .; do sleep 0.5; done
echo "connected: the one that is listed sees $(on listed swarm peers | wc -l) peer"

tried() { timeout 20 env IPFS_PATH="$folder/$1" ./ipfs cat "$2" > /dev/null 2>&1 && echo came || echo 'did not come in 20 s'; }
of_listed=$(echo "made by the one that is listed" | on listed add --quieter)
of_lister=$(echo "made by the one that lists" | on lister add --quieter)
one=$(tried lister "$of_listed")
other=$(tried listed "$of_lister")
echo "the lister asks for a block of the listed one: $one"
echo "the listed one asks for a block of the lister: $other"

kill "${started[0]}"
wait "${started[0]}" || true
on listed config --json Internal.Bitswap '{"BroadcastControl": {"Enable": false}}'
on listed config --json Addresses.Swarm "[\"${address%%/p2p/*}\"]"
begin listed
until on listed swarm peers | grep -q .; do sleep 0.5; done
again=$(tried listed "$of_lister")
echo "the same with Internal.Bitswap.BroadcastControl.Enable false: $again"
[ "$one" = came ] && [ "$other" != came ] && [ "$again" = came ]

# Seen:
#   ipfs version 0.43.0
#   connected: the one that is listed sees 1 peer
#   the lister asks for a block of the listed one: came
#   the listed one asks for a block of the lister: did not come in 20 s
#   the same with Internal.Bitswap.BroadcastControl.Enable false: came
