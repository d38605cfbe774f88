#!/usr/bin/env bash
# Usage: test.sh [unit|integration|coverage|docker|all] [PYTEST ARGUMENT ...]
#        test.sh PYTEST ARGUMENT ...
#
# Run the tests, in parallel; sets up .venv on first use.
#
#   unit          tests/unit: half a minute, no network
#   integration   everything else that needs neither Docker nor, once Synapse is installed, a network
#   (nothing)     both of them
#   coverage      both of them, with what is marked slow or network; fails below the floor of branch coverage
#   docker        what needs a Docker engine or a homerunner; starts an engine where none runs
#   all           coverage and docker
#
# With CI=true a skipped test is a failure.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts-dev/setup.sh dev

# One more than processors: tests wait for processes more than they compute.
parallel=(--numprocesses "${TEST_PROCESSES:-$(($(nproc 2>/dev/null || echo 2) + 1))}" --dist worksteal)
without_docker="not docker and not homerunner and not nightly"

run_tests() {
    .venv/bin/python -m pytest "$@"
}

case ${1:-} in
    unit)
        run_tests "${parallel[@]}" tests/unit "${@:2}"
        ;;
    integration)
        run_tests "${parallel[@]}" -m "$without_docker and not slow and not network" --ignore tests/unit "${@:2}"
        ;;
    docker)
        scripts-dev/docker/test.sh "${@:2}"
        ;;
    coverage | all)
        run_tests "${parallel[@]}" -m "$without_docker" --cov --cov-report=term:skip-covered "${@:2}"
        if [[ $1 == all ]]; then
            scripts-dev/docker/test.sh
        fi
        ;;
    '')
        run_tests "${parallel[@]}" -m "$without_docker and not slow and not network"
        ;;
    *)
        run_tests "$@"
        ;;
esac
