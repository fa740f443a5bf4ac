#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Fails when generated code is stale. Generates in a copy of the checkout, so that this one is left as it is.

set -o errexit -o nounset -o pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
generated=(apis generated hack/api-violations.list pkg/gateway/httpapi)

copy=$(mktemp -d)
trap 'rm -rf "${copy}"' EXIT

tar --create --exclude=./bin --exclude=./.cluster --exclude=./.git . | tar --extract --directory "${copy}"
# The generators themselves are worth keeping.
mkdir -p bin/codegen "${copy}/bin"
ln -s "${PWD}/bin/codegen" "${copy}/bin/codegen"

if ! "${copy}/hack/update-codegen.sh" >"${copy}/log" 2>&1; then
    cat "${copy}/log" >&2
    echo "verify-codegen: the generators fail; see above" >&2
    exit 1
fi

for path in "${generated[@]}"; do
    if ! diff --recursive --unified --new-file "${path}" "${copy}/${path}"; then
        echo "verify-codegen: ${path} is stale: run \`make generate\` and commit what it changes" >&2
        exit 1
    fi
done
