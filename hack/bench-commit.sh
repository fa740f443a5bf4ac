#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Measures commits with the programs of the local cluster, which need not run. BASELINE=COMMIT has the image-committer of
# that commit measured beside this checkout's; BENCH_FLAGS are further flags (see test/bench/commit).

set -o errexit -o nounset -o pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
beside=()
if [[ -n ${BASELINE:-} ]]; then
    commit=$(git rev-parse --verify --quiet "${BASELINE}^{commit}") || {
        echo "make bench-commit: BASELINE=${BASELINE} is no commit of this repository" >&2
        exit 2
    }
    program=${PWD}/bin/image-committer-${commit:0:12}
    if [[ ! -x ${program} ]]; then
        source=$(mktemp --directory)
        trap 'rm -r "${source}"' EXIT
        git archive "${commit}" | tar --extract --directory "${source}"
        # With the flags of `make build`, which make exports.
        go build -C "${source}" -ldflags "-X main.version=${commit:0:12}" -o "${program}" ./cmd/image-committer
    fi
    beside=(--baseline "${program}")
fi

go build -o bin/bench-commit ./test/bench/commit
# shellcheck disable=SC2086
bin/bench-commit --bin "${CLUSTER_DIR:-.cluster}/bin" "${beside[@]}" ${BENCH_FLAGS:-}
