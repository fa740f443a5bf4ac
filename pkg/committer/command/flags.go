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

package command

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// flags are those that both commands have.
type flags struct {
	address, namespace string
	ofPod              bool
	cgroupRoot         string
	podUID             string
	containers         []string
	timeout            time.Duration
	terminationLog     string

	start          time.Time
	stdout, stderr io.Writer
	log            *slog.Logger
	ran            *bool // whether the arguments were good enough to begin
}

// add is for every command, addPod for those that do something with a Pod's containers.
func (f *flags) add(cmd *cobra.Command, timeout time.Duration) {
	fs := cmd.Flags()
	fs.StringVar(&f.address, "containerd-address", "/run/containerd/containerd.sock", "containerd's socket")
	fs.StringVar(&f.namespace, "containerd-namespace", "k8s.io", "containerd's namespace of the Pod's containers")
	fs.DurationVar(&f.timeout, "timeout", timeout, "how long the whole run may take, from the start of the process")
	fs.StringVar(&f.terminationLog, "termination-log", "/dev/termination-log", `file that the result is written to; "-" is standard output`)
	fs.SortFlags = false
}

func (f *flags) addPod(cmd *cobra.Command, container string, timeout time.Duration) {
	f.ofPod = true
	cmd.Flags().StringVar(&f.podUID, "pod-uid", "", "UID of the Pod; a container of another Pod is refused")
	cmd.Flags().StringArrayVar(&f.containers, "container", nil, container+"; may be repeated")
	cmd.Flags().StringVar(&f.cgroupRoot, "cgroup-root", "/sys/fs/cgroup", "where the node's cgroups are mounted: they say what is frozen")
	f.add(cmd, timeout)
}

func (f *flags) check() error {
	switch {
	case f.ofPod && f.podUID == "":
		return errors.New("--pod-uid is needed")
	case f.timeout <= 0:
		return fmt.Errorf("--timeout=%s has to be positive", f.timeout)
	case f.address == "":
		return errors.New("--containerd-address is needed")
	case f.terminationLog == "":
		return errors.New("--termination-log is needed")
	}
	return nil
}

// containerImages are the containers to commit; ended are the names of those that are wanted as they have ended.
func (f *flags) containerImages(ended []string) ([]committer.ContainerImage, error) {
	parsed, err := parseContainers(f.containers, "name", "id", "image")
	var all []committer.ContainerImage
	for _, fields := range parsed {
		all = append(all, committer.ContainerImage{Ref: runtime.Ref{Name: fields["name"], ID: fields["id"]}, Image: fields["image"], Ended: slices.Contains(ended, fields["name"])})
	}
	for _, name := range ended {
		if err == nil && !slices.ContainsFunc(all, func(c committer.ContainerImage) bool { return c.Name == name }) {
			err = fmt.Errorf("--ended=%s: no --container has that name", name)
		}
	}
	return all, err
}

func (f *flags) containerRefs() ([]runtime.Ref, error) {
	parsed, err := parseContainers(f.containers, "name", "id")
	var all []runtime.Ref
	for _, fields := range parsed {
		all = append(all, runtime.Ref{Name: fields["name"], ID: fields["id"]})
	}
	return all, err
}

// parseContainers reads values of the form key=value,key=value. Every key is
// needed, and no two containers may have the same name, ID or image.
func parseContainers(values []string, keys ...string) ([]map[string]string, error) {
	if len(values) == 0 {
		return nil, errors.New("--container is needed at least once")
	}
	var all []map[string]string
	seen := map[string]bool{}
	for _, value := range values {
		fields := map[string]string{}
		for pair := range strings.SplitSeq(value, ",") {
			key, v, ok := strings.Cut(pair, "=")
			if !ok || !slices.Contains(keys, key) {
				return nil, fmt.Errorf("--container=%s: %q is none of %s, each followed by = and its value", value, pair, strings.Join(keys, ", "))
			}
			if _, twice := fields[key]; twice {
				return nil, fmt.Errorf("--container=%s: %s is given twice", value, key)
			}
			if key == "id" {
				v = strings.TrimPrefix(v, "containerd://") // as a Pod's status has it
			}
			fields[key] = v
		}
		for _, key := range keys {
			if fields[key] == "" {
				return nil, fmt.Errorf("--container=%s: %s is missing", value, key)
			}
			pair := key + "=" + fields[key]
			if seen[pair] {
				return nil, fmt.Errorf("--container=%s: another container has the same %s", value, key)
			}
			seen[pair] = true
		}
		all = append(all, fields)
	}
	return all, nil
}
