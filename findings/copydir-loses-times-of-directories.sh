#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# github.com/containerd/continuity v0.5.0, fs.CopyDir, with which containerd's CRI plugin fills the volumes that an image
# declares (internal/cri/opts/container.go, copyExistingContents; seen in containerd 2.4.2).
#
# Seen: the copy of a directory that is not empty has the time of the copying as its time of modification. CopyDir sets the
# time of the original before it makes what is in the directory, and that sets it anew. The times of files are kept, and so is
# that of an empty directory. So it is a matter of the order, and not meant.
#
# Exits 0 while it is so, 1 when it is not any more.

set -o errexit -o nounset -o pipefail

dir=$(mktemp -d)
trap 'chmod -R u+w "${dir}"; rm -rf "${dir}"' EXIT
cd "${dir}"
cat > main.go <<'GO'
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/containerd/continuity/fs"
)

func main() {
	old := time.Unix(1000000000, 0)
	check(os.MkdirAll("from/full", 0o755))
	check(os.MkdirAll("from/empty", 0o755))
	check(os.WriteFile("from/full/file", nil, 0o644))
	for _, name := range []string{"from/full/file", "from/full", "from/empty"} {
		check(os.Chtimes(name, old, old))
	}
	check(fs.CopyDir("to", "from"))
	kept := map[string]bool{}
	for _, name := range []string{"full/file", "full", "empty"} {
		info, err := os.Stat("to/" + name)
		check(err)
		kept[name] = info.ModTime().Equal(old)
		fmt.Printf("%-10s time kept: %v\n", name, kept[name])
	}
	if !kept["full/file"] || kept["full"] || !kept["empty"] {
		fmt.Println("this is another behaviour than the one noted")
		os.Exit(1)
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
GO
go mod init finding > /dev/null 2>&1
go get github.com/containerd/continuity@v0.5.0 > /dev/null 2>&1
go mod tidy > /dev/null 2>&1
go run .
