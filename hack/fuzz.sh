#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Runs every fuzz target, one after the other, for FUZZTIME each, and those that are called Storm for STORMS: so many inputs
# (20000x, which are a million steps of a storm), or so long (1h). An input that
# a target fails with is written below testdata/fuzz beside it: mend the code and commit the input, `go test` runs it from
# then on.

set -o errexit -o nounset -o pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
targets=0
while IFS=: read -r file line; do
    target=${line#func }
    time=${FUZZTIME:-20000x}
    # An input of these is a storm of 50 steps, and not a decoding.
    [[ ${target} != *Storm ]] || time=${STORMS:-500x}
    go test ${TEST_FLAGS:-} -run='^$' -fuzz="^${target}\$" -fuzztime="${time}" "./$(dirname "${file}")"
    targets=$((targets + 1))
done < <(grep --recursive --include='*_test.go' --only-matching --extended-regexp '^func Fuzz[A-Za-z0-9]+' apis cmd pkg | sort)
[[ ${targets} -gt 0 ]] || {
    echo "fuzz: found no target" >&2
    exit 1
}
