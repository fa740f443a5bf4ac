#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Measures the API over its embedded etcd: what it costs to patch one large sandbox (store), or what an event costs those who
# watched before the server started (watch). BASELINE=COMMIT has the server of that commit measured beside this checkout's;
# BENCH_FLAGS are further flags (see test/bench/store and test/bench/watch).

set -o errexit -o nounset -o pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bench=${1:-store}
beside=()
if [[ -n ${BASELINE:-} ]]; then
    commit=$(git rev-parse --verify --quiet "${BASELINE}^{commit}") || {
        echo "make bench-${bench}: BASELINE=${BASELINE} is no commit of this repository" >&2
        exit 2
    }
    program=${PWD}/bin/bench-store-serve-${commit:0:12}
    if [[ ! -x ${program} ]]; then
        source=$(mktemp --directory)
        trap 'rm -r "${source}"' EXIT
        git archive "${commit}" | tar --extract --directory "${source}"
        # The same program around its server.
        rm -rf "${source}/test/bench/store"
        mkdir -p "${source}/test/bench/store"
        cp -r test/bench/store/serve "${source}/test/bench/store/"
        # With the flags of `make build`, which make exports.
        go build -C "${source}" -o "${program}" ./test/bench/store/serve
    fi
    beside=(--baseline "${program}")
fi

go build -o bin/bench-store-serve ./test/bench/store/serve
go build -o "bin/bench-${bench}" "./test/bench/${bench}"
# shellcheck disable=SC2086
"bin/bench-${bench}" --serve "${PWD}/bin/bench-store-serve" "${beside[@]}" ${BENCH_FLAGS:-}
