#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# distribution v3.1.2 with the cache of blobs that its example configuration has (cache: blobdescriptor: inmemory): after
# `garbage-collect` has deleted a layer, the registry that goes on running answers HEAD with 200, GET with 200, the layer's
# Content-Length and not one byte, and takes a manifest that names the layer. A client that asks with HEAD whether a layer
# has to be pushed makes an image that nobody can pull. After a restart HEAD answers 404.
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
  cache: {blobdescriptor: inmemory}
  filesystem: {rootdirectory: ${dir}/data}
  delete: {enabled: true}
http: {addr: "127.0.0.1:${port}"}
CONFIG

serve() {
    OTEL_TRACES_EXPORTER=none "${dir}/bin/registry" serve "${dir}/config.yml" >>"${dir}/log" 2>&1 &
    server=$!
    curl --silent --fail --output /dev/null --retry 50 --retry-delay 1 --retry-connrefused "${url}/"
}

digest() { printf 'sha256:%s' "$(sha256sum "$1" | cut --delimiter=' ' --fields=1)"; }

# push FILE: a blob, to the repository a.
push() {
    local where
    where=$(curl --silent --fail --request POST --output /dev/null --write-out '%{redirect_url}%header{location}' "${url}/a/blobs/uploads/")
    curl --silent --fail --output /dev/null --request PUT --header 'Content-Type: application/octet-stream' --data-binary "@$1" "${where}&digest=$(digest "$1")"
}

# publish TAG: an image of the layer and a configuration of its own.
publish() {
    printf '{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["%s"]},"author":"%s"}' "$(digest "${dir}/layer")" "$1" >"${dir}/config-$1"
    push "${dir}/config-$1"
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"%s","size":%d}]}' \
        "$(digest "${dir}/config-$1")" "$(stat --format=%s "${dir}/config-$1")" "$(digest "${dir}/layer")" "$(stat --format=%s "${dir}/layer")" >"${dir}/manifest-$1"
    curl --silent --output /dev/null --write-out '%{http_code}' --request PUT --header 'Content-Type: application/vnd.oci.image.manifest.v1+json' \
        --data-binary "@${dir}/manifest-$1" "${url}/a/manifests/$1"
}

head_of_layer() { curl --silent --head --output /dev/null --write-out '%{http_code}' "${url}/a/blobs/$(digest "${dir}/layer")"; }

serve
echo hello >"${dir}/hello"
tar --create --file="${dir}/layer" --directory="${dir}" hello
push "${dir}/layer"
first=$(publish gen1)
curl --silent --fail --output /dev/null --request DELETE "${url}/a/manifests/$(digest "${dir}/manifest-gen1")"
"${dir}/bin/registry" garbage-collect "${dir}/config.yml" >>"${dir}/log" 2>&1

told=$(head_of_layer)
got=$(curl --silent --output "${dir}/got" --write-out '%{http_code} with Content-Length %header{content-length}' "${url}/a/blobs/$(digest "${dir}/layer")" || true)
bytes=$(stat --format=%s "${dir}/got" 2>/dev/null || echo 0)
second=$(publish gen2)
kill "${server}" && wait "${server}" || true
serve
after=$(head_of_layer)

cat <<SEEN
distribution ${version}, cache: blobdescriptor: inmemory
  manifest gen1                                 ${first}
  after its deletion and garbage-collect
    HEAD of the layer                           ${told}
    GET of the layer                            ${got}, and ${bytes} bytes
    manifest gen2, which names that layer       ${second}
  after a restart, HEAD of the layer            ${after}
SEEN
[[ ${first} == 201 && ${told} == 200 && ${got} == "200 with Content-Length 10240" && ${bytes} == 0 && ${second} == 201 && ${after} == 404 ]]
