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
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	runtimespec "github.com/opencontainers/runtime-spec/specs-go"
)

func TestVolumes(t *testing.T) {
	root := t.TempDir()
	upper := root + "/io.containerd.snapshotter.v1.overlayfs/snapshots/7/fs"
	own := root + "/io.containerd.grpc.v1.cri/containers/c1/volumes/"
	for _, name := range []string{"v1", "v2"} {
		if err := os.MkdirAll(own+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mapped := []runtimespec.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	tests := map[string]struct {
		mount runtimespec.Mount
		users []runtimespec.LinuxIDMapping
		want  []Volume
	}{
		"an image's volume":       {runtimespec.Mount{Destination: "/data", Source: own + "v1"}, nil, []Volume{{Path: "/data", Dir: own + "v1"}}},
		"as the image writes it":  {runtimespec.Mount{Destination: "/data/../srv/", Source: own + "v2"}, nil, []Volume{{Path: "/data/../srv/", Dir: own + "v2"}}},
		"an emptyDir":             {runtimespec.Mount{Destination: "/data", Source: "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/data"}, nil, nil},
		"of another container":    {runtimespec.Mount{Destination: "/data", Source: root + "/io.containerd.grpc.v1.cri/containers/c2/volumes/v1"}, nil, nil},
		"another of its files":    {runtimespec.Mount{Destination: "/data", Source: root + "/io.containerd.grpc.v1.cri/containers/c1/status"}, nil, nil},
		"something in its volume": {runtimespec.Mount{Destination: "/data", Source: own + "v1/x"}, nil, nil},
		"a tmpfs":                 {runtimespec.Mount{Destination: "/dev/shm", Source: "shm", Type: "tmpfs"}, nil, nil},
		"without a source":        {runtimespec.Mount{Destination: "/proc", Type: "proc"}, nil, nil},
		"in a user namespace": {runtimespec.Mount{Destination: "/data", Source: own + "v1"}, mapped,
			[]Volume{{Path: "/data", Dir: own + "v1", Users: mapped}}},
		"in a user namespace, ID-mapped": {runtimespec.Mount{Destination: "/data", Source: own + "v1", UIDMappings: mapped, GIDMappings: mapped}, mapped,
			[]Volume{{Path: "/data", Dir: own + "v1"}}},
		"below a root that is a symbolic link": {runtimespec.Mount{Destination: "/data", Source: "/elsewhere/io.containerd.grpc.v1.cri/containers/c1/volumes/v1"}, nil,
			[]Volume{{Path: "/data", Dir: own + "v1"}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			spec := &runtimespec.Spec{Mounts: []runtimespec.Mount{test.mount}, Linux: &runtimespec.Linux{UIDMappings: test.users}}
			if diff := cmp.Diff(test.want, volumes("c1", spec, upper)); diff != "" {
				t.Errorf("volumes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhereAVolumeIsMounted(t *testing.T) {
	const mountinfo = `1522 1410 0:310 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/l,upperdir=/u
1530 1522 259:1 /var/lib/containerd/io.containerd.grpc.v1.cri/containers/c1/volumes/v1 /run/x\040y rw,relatime - ext4 /dev/root rw
1531 1522 259:1 /var/lib/containerd/io.containerd.grpc.v1.cri/containers/c2/volumes/v2 /other rw,relatime - ext4 /dev/root rw
broken
`
	for volume, want := range map[string]string{"v1": "/run/x y", "v2": "", "1": ""} {
		if got := mountedAt(mountinfo, "c1", volume); got != want {
			t.Errorf("%s is mounted at %q, want %q", volume, got, want)
		}
	}
}
