# SPDX-License-Identifier: Apache-2.0
# For those who build with Docker; `make images` and `make push` build the same without it.
#   docker build --target sandbox-apiserver -t sandbox-apiserver .
#   docker build --target image-committer -t image-committer .
#   docker build --target execd -t execd .
#   docker build --target lifecycle-gateway -t lifecycle-gateway .

FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETOS TARGETARCH VERSION=unversioned
WORKDIR /src
COPY go.mod go.sum go.work go.work.sum ./
COPY apis/go.mod apis/go.sum apis/
COPY generated/go.mod generated/go.sum generated/
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.version=$VERSION" -o /out/ ./cmd/sandbox-apiserver ./cmd/image-committer ./cmd/execd ./cmd/lifecycle-gateway
RUN mkdir -p /root-fs/etc /root-fs/tmp && chmod 1777 /root-fs/tmp \
 && printf 'root:x:0:\nnonroot:x:65532:\n' >/root-fs/etc/group \
 && printf 'root:x:0:0:root:/:/\nnonroot:x:65532:65532:nonroot:/:/\n' >/root-fs/etc/passwd

# Reading upperdirs and speaking to containerd's socket takes root.
FROM scratch AS image-committer
COPY --from=build /root-fs /
COPY --from=build /out/image-committer /
USER 0:0
ENTRYPOINT ["/image-committer"]

# Copies itself into sandboxes, as any user.
FROM scratch AS execd
COPY --from=build /root-fs /
COPY --from=build /out/execd /
USER 65532:65532
ENTRYPOINT ["/execd"]

FROM scratch AS lifecycle-gateway
COPY --from=build /root-fs /
COPY --from=build /out/lifecycle-gateway /
USER 65532:65532
ENTRYPOINT ["/lifecycle-gateway"]

FROM scratch AS sandbox-apiserver
COPY --from=build /root-fs /
COPY --from=build /out/sandbox-apiserver /
USER 65532:65532
ENTRYPOINT ["/sandbox-apiserver"]
