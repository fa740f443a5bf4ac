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

package runtime

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	runtimespec "github.com/opencontainers/runtime-spec/specs-go"
)

// Volume is a directory of the node that containerd's CRI plugin has mounted over a path that
// the container's image declares as a volume. It goes with the container.
type Volume struct {
	// Path is where it is mounted, as the image declares it; Dir is the directory.
	Path, Dir string
	// Users and Groups are the container's, where the owners in the directory are others.
	Users, Groups []runtimespec.LinuxIDMapping
}

// criState is the directory of the plugin's in containerd's root.
const criState = "io.containerd.grpc.v1.cri"

// volumes are those mounts of a container's whose source lies in the plugin's own directory of
// that container: …/containers/ID/volumes/ID of the volume (container_create.go, volumeMounts).
// The record of the mounts is the truth: whether the plugin makes volumes at all is a setting of
// it (ignore_image_defined_volumes), and where the Pod mounts something itself there is none.
func volumes(containerID string, spec *runtimespec.Spec, upperdir string) []Volume {
	var all []Volume
	for _, m := range spec.Mounts {
		parent, ok := strings.CutSuffix(m.Source, "/"+filepath.Base(m.Source))
		if !ok || !strings.HasSuffix(parent, "/containers/"+containerID+"/volumes") {
			continue
		}
		v := Volume{Path: m.Destination, Dir: located(m.Source, upperdir), Users: spec.Linux.UIDMappings, Groups: spec.Linux.GIDMappings}
		if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
			// An ID-mapped mount: what the container writes there has the owners on the disk
			// that the container knows.
			v.Users, v.Groups = nil, nil
		}
		all = append(all, v)
	}
	return all
}

// locate finds where the volumes are mounted: what leads there may be a symbolic link of the image, and
// only where the layers of that are directories can it be followed there. Of a container that has ended
// nothing is known but what its image declares.
func (c *Container) locate(ctx context.Context, volumes []Volume) error {
	if len(volumes) == 0 {
		return nil
	}
	mounts, err := c.mountinfo(ctx)
	if err != nil {
		return err
	}
	for i := range volumes {
		if at := mountedAt(mounts, c.ref.ID, filepath.Base(volumes[i].Dir)); at != "" {
			volumes[i].Path = at
		}
	}
	return nil
}

// mountedAt is where a list of mounts has a volume of a container; empty where it has not.
func mountedAt(mountinfo, containerID, volume string) string {
	for line := range strings.Lines(mountinfo) {
		if place := strings.Fields(line); len(place) > 4 && strings.HasSuffix(place[3], "/containers/"+containerID+"/volumes/"+volume) {
			return unescaped(place[4])
		}
	}
	return ""
}

// located is where the directory at source is to be found. The plugin notes it with symbolic links
// resolved: where containerd's root is one, only its own name leads into it here.
func located(source, upperdir string) string {
	if _, err := os.Lstat(source); err == nil {
		return source
	}
	root, _, ok := strings.Cut(upperdir, "/io.containerd.")
	at := strings.Index(source, "/"+criState+"/")
	if !ok || at < 0 {
		return source
	}
	return root + source[at:]
}
