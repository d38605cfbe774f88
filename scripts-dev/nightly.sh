#!/usr/bin/env bash
# Usage: nightly.sh [FOLDER]
#
# Run what CI leaves out, because building the clients or running all pairs takes hours:
#
#   1. the tests that are marked nightly
#   2. all pairs of the clients that this machine can build; others are skipped, with the reason
#   3. the same tests over and over, for the rate of flakes
#
# FOLDER gets a folder for each, with a report and junit.xml, and summary.txt; default: nightly/DATE.
# Every part runs, whatever the others do; fails if one of them does.
#
#   CLIENTS         whose pairs run; default: all
#   SUITES          in which suites; default: all of them, which takes six clients and two cores about five hours
#   REPEAT_CLIENTS  whose pairs are repeated; default: sdk
#   REPEAT          how often SendMessages runs in each pair; default: 20
#   REPEAT_CRYPTO   how often the suite crypto does; default: 5
#   CASES           how many cases run at once; default: the setting's
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts-dev/setup.sh dev

folder=${1:-nightly/$(date +%F)}
mkdir -p "$folder"
folder=$(realpath "$folder")
failed=0
at_once=(${CASES:+-n "$CASES"})

play() {  # NAME ARGUMENT ...: run a part of the matrix, and note how it ended
    local name=$1 code=0
    shift
    .venv/bin/trafficlight run "$@" "${at_once[@]}" --results "$folder/$name" >"$folder/$name.log" 2>&1 || code=$?
    echo "$name: exit code $code; $(tail -1 "$folder/$name.log")" | tee -a "$folder/summary.txt"
    ((code == 0)) || failed=1
}

code=0
.venv/bin/python -m pytest -m nightly --junitxml "$folder/tests.xml" >"$folder/tests.log" 2>&1 || code=$?
echo "tests: exit code $code; $(tail -1 "$folder/tests.log")" | tee "$folder/summary.txt"
((code == 0 || code == 5)) || failed=1  # 5: there are none

read -ra suites <<<"${SUITES:-}"
play matrix --clients "${CLIENTS:-all}" "${suites[@]}"
play send-messages --clients "${REPEAT_CLIENTS:-sdk}" --repeat "${REPEAT:-20}" chat/send_messages_test.py::SendMessages
play crypto --clients "${REPEAT_CLIENTS:-sdk}" --repeat "${REPEAT_CRYPTO:-5}" crypto
exit "$failed"
