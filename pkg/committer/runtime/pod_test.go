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
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	runtimespec "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/cgroup"
)

// TestMerge: the task says whether there are processes, the kernel what they do.
func TestMerge(t *testing.T) {
	var runs cgroup.State
	stops, stands, above := cgroup.State{Asked: true}, cgroup.State{Asked: true, Frozen: true}, cgroup.State{Above: true, Frozen: true}
	for _, test := range []struct {
		known  State
		kernel cgroup.State
		want   State
	}{
		{Running, runs, Running}, {Running, stops, Pausing}, {Running, stands, Paused}, {Running, above, Paused},
		{Paused, runs, Running}, {Paused, stops, Pausing}, {Paused, stands, Paused}, {Pausing, runs, Running},
		{Ended, stands, Ended}, {Created, stands, Created},
	} {
		if got := merge(test.known, test.kernel); got != test.want {
			t.Errorf("%s by containerd, %+v by the kernel: %s, want %s", test.known, test.kernel, got, test.want)
		}
	}
}

func TestApart(t *testing.T) {
	own := []runtimespec.LinuxNamespace{{Type: runtimespec.MountNamespace}, {Type: runtimespec.PIDNamespace}}
	for name, test := range map[string]struct {
		namespaces []runtimespec.LinuxNamespace
		may        []string
		want       bool
	}{
		"a container like any other": {own, []string{"CAP_CHOWN", "CAP_KILL"}, true},
		"one that shares processes":  {[]runtimespec.LinuxNamespace{{Type: runtimespec.PIDNamespace, Path: "/proc/7/ns/pid"}}, nil, false},
		"one with the node's":        {[]runtimespec.LinuxNamespace{{Type: runtimespec.MountNamespace}}, nil, false},
		"a privileged one":           {own, []string{"CAP_CHOWN", "CAP_SYS_ADMIN"}, false},
	} {
		spec, err := typeurl.MarshalAny(&runtimespec.Spec{
			Process: &runtimespec.Process{Capabilities: &runtimespec.LinuxCapabilities{Bounding: test.may}},
			Linux:   &runtimespec.Linux{Namespaces: test.namespaces},
		})
		if err != nil {
			t.Fatal(err)
		}
		c := &Container{ref: Ref{Name: name}, record: containers.Container{Spec: spec}}
		if got, err := c.Apart(); err != nil || got != test.want {
			t.Errorf("%s: apart %v (%v)", name, got, err)
		}
	}
}
