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
	"slices"
	"testing"

	runtimespec "github.com/opencontainers/runtime-spec/specs-go"
)

func TestWhatAContainerHasMountedItself(t *testing.T) {
	// As runc leaves it for a container with an emptyDir, a volume of its image and /etc/hosts.
	const made = `163 99 0:70 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
164 163 0:73 / /proc rw,nosuid - proc proc rw
165 163 0:74 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
166 165 0:75 / /dev/pts rw - devpts devpts rw
167 163 0:77 / /sys ro - sysfs sysfs ro
168 167 0:30 / /sys/fs/cgroup ro - cgroup2 cgroup rw
169 163 254:0 /kubelet/pods/1/etc-hosts /etc/hosts rw - ext4 /dev/vda rw
170 163 254:0 /kubelet/pods/1/volumes/empty /scratch rw - ext4 /dev/vda rw
171 163 254:0 /containerd/io.containerd.grpc.v1.cri/containers/id1/volumes/v1 /data rw - ext4 /dev/vda rw
172 164 0:74 /null /proc/kcore rw,nosuid - tmpfs tmpfs rw
173 163 0:80 / /masked ro - tmpfs tmpfs ro
`
	spec := &runtimespec.Spec{
		Mounts: []runtimespec.Mount{
			{Destination: "/proc"}, {Destination: "/dev"}, {Destination: "/dev/pts"}, {Destination: "/sys"},
			{Destination: "/etc/hosts", Source: "/kubelet/pods/1/etc-hosts"},
			{Destination: "/scratch/", Source: "/kubelet/pods/1/volumes/empty"},
			{Destination: "/data", Source: "/run/containerd/io.containerd.grpc.v1.cri/containers/id1/volumes/v1"},
		},
		Linux: &runtimespec.Linux{MaskedPaths: []string{"/proc/kcore", "/masked"}},
	}
	for name, test := range map[string]struct {
		more string
		want []Mounted
	}{
		"nothing": {"", nil},
		"memory, also below a volume of the image": {
			"180 163 0:90 / /work rw - tmpfs none rw\n181 171 0:91 / /data/fast rw - tmpfs none rw\n",
			[]Mounted{{"/work", "tmpfs"}, {"/data/fast", "tmpfs"}},
		},
		"FUSE, a disk in a file, an overlay": {
			"180 163 0:90 / /home/u/s3 rw - fuse.rclone remote: rw\n181 163 7:0 / /mnt rw - ext4 /dev/loop0 rw\n182 163 0:91 / /var/lib/docker/overlay2/a/merged rw - overlay overlay rw\n",
			[]Mounted{{"/home/u/s3", "fuse.rclone"}, {"/mnt", "ext4"}, {"/var/lib/docker/overlay2/a/merged", "overlay"}},
		},
		"a blank in the name, and twice the same": {
			"180 163 0:90 / /my\\040work rw - tmpfs none rw\n181 180 0:91 / /my\\040work rw - tmpfs none rw\n",
			[]Mounted{{"/my work", "tmpfs"}},
		},
		"what the node has":                               {"180 163 254:0 /var/secret /secret rw - ext4 /dev/vda rw\n", []Mounted{{"/secret", "ext4"}}},
		"a driver's libraries":                            {"180 163 254:0 /usr/lib/libcuda.so.1 /usr/lib/libcuda.so.1 ro,nosuid,nodev - ext4 /dev/vda rw\n", nil},
		"its own directory, in two places":                {"180 163 0:70 /etc /b rw - overlay overlay rw\n", nil},
		"a volume of its image, in two places":            {"180 163 254:0 /containerd/io.containerd.grpc.v1.cri/containers/id1/volumes/v1/x /b rw - ext4 /dev/vda rw\n", nil},
		"below what is not kept in any case":              {"180 170 0:90 / /scratch/fast rw - tmpfs none rw\n181 165 0:91 / /dev/shm rw - tmpfs shm rw\n", nil},
		"what the kernel shows":                           {"180 163 0:90 / /chroot/proc rw - proc proc rw\n181 163 0:91 / /chroot/sys rw - sysfs sysfs rw\n182 163 0:4 net:[4026] /run/netns/a rw - nsfs nsfs rw\n", nil},
		"a line that no kernel writes, and no last break": {"180 163\n\n181 163 0:91 / /work rw - tmpfs", []Mounted{{"/work", "tmpfs"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := mountedInside(made+test.more, "id1", spec); !slices.Equal(got, test.want) {
				t.Errorf("found %v, want %v", got, test.want)
			}
		})
	}
}
