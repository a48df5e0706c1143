#!/bin/sh
# Puts a TrainingLedger and the digits job on the chain, once, and writes down where they are for everybody else.
set -eu
if [ -s /job/env ]; then
    set -a
    . /job/env
    exec deepledger status "$JOB" # fails when the chain was lost, or is one of another version's contract
fi
folder=$(mktemp -d)
cp /examples/digits/job.toml /examples/digits/task.py "$folder"
python /examples/digits/prepare.py --into "$folder/data" --participants 5 >/dev/null
sed -i "s/^min_participants = .*/min_participants = 3/" "$folder/job.toml" # the job outlives one participant of four

DEEPLEDGER_CONTRACT=$(deepledger deploy)
export DEEPLEDGER_CONTRACT
job=$(deepledger job create "$folder/job.toml" --coordinator "$(cat /job/coordinator)")
printf 'DEEPLEDGER_CONTRACT=%s\nJOB=%s\n' "$DEEPLEDGER_CONTRACT" "$job" >/job/env.part
mv /job/env.part /job/env # whole or not at all
cat /job/env
