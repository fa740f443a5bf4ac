/*
Copyright The Sandbox API Server Authors.

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
*/

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
)

// image is a one-layer image that needs no registry and no Docker: `writeArchive` makes an OCI archive of it, which
// containerd imports. The same content always gives the same digest.
type image struct {
	name  string
	files []tar.Header
	data  map[string][]byte // by the header's name
	cmd   []string
}

func newPauseImage(pause []byte) image {
	return image{
		name:  pauseImage,
		files: []tar.Header{{Name: "pause", Typeflag: tar.TypeReg, Mode: 0o755}},
		data:  map[string][]byte{"pause": pause},
		cmd:   []string{"/pause"},
	}
}

// newBusyboxImage is a small system: a shell, its tools, and two users.
func newBusyboxImage(busybox []byte, applets []string) image {
	i := image{name: busyboxImage, data: map[string][]byte{}, cmd: []string{"sh"}}
	directory := func(name string, mode int64, owner int) {
		i.files = append(i.files, tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: mode, Uid: owner, Gid: owner})
	}
	file := func(name string, mode int64, content string) {
		i.files = append(i.files, tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode})
		i.data[name] = []byte(content)
	}
	for _, name := range []string{"bin", "dev", "etc", "home", "proc", "sys", "usr", "usr/local", "var"} {
		directory(name, 0o755, 0)
	}
	directory("root", 0o700, 0)
	directory("tmp", 0o1777, 0)
	directory("var/tmp", 0o1777, 0)
	directory("home/sandbox", 0o755, 1000)
	file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nsandbox:x:1000:1000:sandbox:/home/sandbox:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
	file("etc/group", 0o644, "root:x:0:\nsandbox:x:1000:\nnogroup:x:65534:\n")
	file("etc/motd", 0o644, "A small system: busybox, nothing else.\n")
	file("bin/busybox", 0o755, string(busybox))
	for _, applet := range applets {
		if applet != "busybox" {
			i.files = append(i.files, tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777})
		}
	}
	return i
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    map[string]string `json:"platform,omitempty"`
}

// writeArchive writes an OCI image layout as a tarball.
func (i image) writeArchive(path string) error {
	layer, diffID, err := i.layer()
	if err != nil {
		return fmt.Errorf("layer of %s: %w", i.name, err)
	}
	platform := map[string]string{"os": "linux", "architecture": goarch()}
	blobs := map[string][]byte{}
	var order []string
	add := func(mediaType string, content []byte) descriptor {
		d := descriptor{MediaType: mediaType, Digest: digest(content), Size: len(content)}
		name := "blobs/sha256/" + d.Digest[len("sha256:"):]
		blobs[name], order = content, append(order, name)
		return d
	}
	layerBlob := add("application/vnd.oci.image.layer.v1.tar+gzip", layer)
	config := add("application/vnd.oci.image.config.v1+json", []byte(render(object{
		"os": platform["os"], "architecture": platform["architecture"],
		"config": object{"Cmd": i.cmd, "Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
		"rootfs": object{"type": "layers", "diff_ids": []string{diffID}},
	})))
	manifest := add("application/vnd.oci.image.manifest.v1+json", []byte(render(object{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": config, "layers": []descriptor{layerBlob},
	})))
	manifest.Platform = platform
	manifest.Annotations = map[string]string{"io.containerd.image.name": i.name}
	index, err := json.Marshal(object{"schemaVersion": 2, "manifests": []descriptor{manifest}})
	if err != nil {
		return err
	}
	blobs["oci-layout"], blobs["index.json"] = []byte(`{"imageLayoutVersion":"1.0.0"}`), index

	var archive bytes.Buffer
	tw := tar.NewWriter(&archive)
	for _, name := range append([]string{"oci-layout", "index.json"}, order...) {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(blobs[name]))}); err != nil {
			return err
		}
		if _, err := tw.Write(blobs[name]); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return writeFile(path, archive.Bytes(), 0o644)
}

// layer returns the compressed layer and the digest of its uncompressed form.
func (i image) layer() (compressed []byte, diffID string, err error) {
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	uncompressed := sha256.New()
	tw := tar.NewWriter(io.MultiWriter(zw, uncompressed))
	for _, header := range i.files {
		header.Size = int64(len(i.data[header.Name]))
		if err := tw.WriteHeader(&header); err != nil {
			return nil, "", err
		}
		if _, err := tw.Write(i.data[header.Name]); err != nil {
			return nil, "", err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, "", err
	}
	if err := zw.Close(); err != nil {
		return nil, "", err
	}
	return out.Bytes(), fmt.Sprintf("sha256:%x", uncompressed.Sum(nil)), nil
}

func digest(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }

// isStatic tells whether a program needs no loader: only such a one runs in an image of its own.
func isStatic(path string) bool {
	program, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = program.Close() }()
	for _, segment := range program.Progs {
		if segment.Type == elf.PT_INTERP {
			return false
		}
	}
	return true
}
