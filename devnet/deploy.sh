#!/bin/sh
# Puts a TrainingLedger and the digits job on the chain, once, and writes down where they are for everybody else.
set -eu
if [ -s /job/env ]; then
    set -a
    . /job/env
    deepledger status "$JOB" && exit 0
    echo "if the chain of the job in /job/env is gone, forget the rest, too: docker compose down --volumes" >&2
    exit 4
fi
folder=$(mktemp -d)
cp /examples/digits/job.toml /examples/digits/task.py "$folder"
python /examples/digits/prepare.py --into "$folder/data" --participants 5 >/dev/null
sed -i "s/^min_participants = .*/min_participants = 3/" "$folder/job.toml" # the job outlives one participant of four
masked() { sed -i 's/^max_samples/privacy = "masked"\n&/' "$folder/job.toml"; }
case ${DEEPLEDGER_MODE:-open} in
open) ;;
masked) masked ;;
hybrid) masked && printf '\n[masks]\nkeys = "x25519+mlkem768"\n' >>"$folder/job.toml" ;;
*) echo "DEEPLEDGER_MODE is open, masked or hybrid, not $DEEPLEDGER_MODE" >&2 && exit 3 ;;
esac

DEEPLEDGER_CONTRACT=$(deepledger deploy)
export DEEPLEDGER_CONTRACT
job=$(deepledger job create "$folder/job.toml" --coordinator "$(cat /job/coordinator)")
printf 'DEEPLEDGER_CONTRACT=%s\nJOB=%s\n' "$DEEPLEDGER_CONTRACT" "$job" >/job/env.part
mv /job/env.part /job/env # whole or not at all
cat /job/env
