#!/bin/sh
# What a development chain leaves behind: the state of every block, on disk, after it has ended in order.
# Guess: anvil without --state is a chain in memory. Blocks without a transaction change nothing, so that they cost next
# to nothing, and what it may swap out it takes away again when it is told to end.
# Found: after its first 500 blocks it writes the state of each block, empty or not, whole to a file of 80 to 150 kB below
# ~/.foundry/anvil/tmp and keeps ten in memory (with one block in two seconds some 5 GB a day); after SIGTERM the files are
# there, and the next anvil neither reads nor removes them. With --prune-history there are none.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
npm install --silent --no-save --prefix "$folder/npm" @foundry-rs/anvil@1.7.1 >"$folder/npm.log" 2>&1 || { cat "$folder/npm.log"; exit 1; }
anvil=$(find "$folder/npm/node_modules" -path '*/bin/anvil' -type f -perm -u+x | head -1)
[ -n "$anvil" ] || anvil="$folder/npm/node_modules/.bin/anvil"
"$anvil" --version | head -1

left_by() { # what is left of 1,000 empty blocks
    home=$(mktemp -d "$folder/home.XXXXXX")
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    HOME="$home" "$anvil" --port "$port" --quiet "$@" & process=$!
    python3 - "$port" <<'PYTHON'
import json, sys, time, urllib.request
mine = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "anvil_mine", "params": ["0x3e8"]}).encode()
request = urllib.request.Request(f"http://127.0.0.1:{sys.argv[1]}", mine, {"Content-Type": "application/json"})
while True:
    try:
        answer = json.load(urllib.request.urlopen(request))
        break
    except OSError:
        time.sleep(0.1)
assert answer.get("result", "missing") is None, answer
PYTHON
    sleep 1
    kill -TERM "$process"
    wait "$process" || true
    files=$(find "$home" -type f -path '*anvil/tmp*' | wc -l)
    bytes=$(find "$home" -type f -path '*anvil/tmp*' -printf '%s\n' | awk '{ sum += $1 } END { print sum + 0 }')
    echo "$files files, $bytes bytes: anvil $*"
}

left_by
kept=$files size=$bytes
left_by --prune-history
[ "$kept" -gt 900 ] && [ "$size" -gt 50000000 ] && [ "$files" -eq 0 ]
