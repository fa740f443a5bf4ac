#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# distribution v3.1.2: an upload that is cancelled (DELETE, answered with 204) leaves its directory in the storage, with the state
# of its checksum. The handler deletes the upload, then closes it, which writes that state once more
# (registry/handlers/blobupload.go, CancelBlobUpload; registry/storage/blobwriter.go, Close). The file that says when the upload
# began is gone, and the purging of old uploads takes such a directory for one from the far future
# (registry/storage/purgeuploads.go, newUploadData): it stays for ever.
#
# Ends with 0 where that is what is seen, with 1 where it has changed. Needs Go and curl, and the Go module proxy.

set -o errexit -o nounset -o pipefail

readonly version=v3.1.2
dir=$(mktemp --directory)
server=
finish() {
    [[ -z ${server} ]] || kill "${server}"
    rm --recursive --force "${dir}"
}
trap finish EXIT

echo "installing github.com/distribution/distribution/v3/cmd/registry@${version}"
GOBIN=${dir}/bin CGO_ENABLED=0 GOFLAGS=-trimpath go install "github.com/distribution/distribution/v3/cmd/registry@${version}"

port=$((20000 + RANDOM % 20000))
readonly url=http://127.0.0.1:${port}/v2
cat >"${dir}/config.yml" <<CONFIG
version: 0.1
storage:
  filesystem: {rootdirectory: ${dir}/data}
http: {addr: "127.0.0.1:${port}"}
CONFIG
OTEL_TRACES_EXPORTER=none "${dir}/bin/registry" serve "${dir}/config.yml" >"${dir}/log" 2>&1 &
server=$!
curl --silent --fail --output /dev/null --retry 50 --retry-delay 1 --retry-connrefused "${url}/"

upload=$(curl --silent --fail --request POST --output /dev/null --write-out '%header{location}' "${url}/a/blobs/uploads/")
answer=$(curl --silent --output /dev/null --write-out '%{http_code}' --request DELETE "${upload}")
asked=$(curl --silent --output /dev/null --write-out '%{http_code}' "${upload}")
left=$(cd "${dir}/data/docker/registry/v2/repositories/a/_uploads" && find . -type f)
echo "distribution ${version}: DELETE of an upload is answered with ${answer}, a GET of it after that with ${asked}; its storage has"
echo "${left:-nothing}"
[[ ${answer} == 204 && ${asked} == 404 && ${left} == ./*/hashstates/sha256/0 ]]
