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

package committer

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// TestCommitOfWhatHasEnded: another container runs in the place of the one that has ended, and another
// commit has frozen it. Neither is touched.
// Others cannot commit what has stopped: https://github.com/containerd/nerdctl/issues/2714
func TestCommitOfWhatHasEnded(t *testing.T) {
	for name, test := range map[string]struct {
		breaks func(s *scene)
		reason result.Reason
		calls  []string
	}{
		"well": {
			calls: []string{"find ended main", "keep main in ended-of-snap", "upload main", "upload main", "config main", "manifest main", "report", "let go of main"},
		},
		"the kubelet was faster": {
			breaks: func(s *scene) { delete(s.node.containers, "main-id") }, reason: result.ContainerNotFound,
			calls: []string{"report"},
		},
		"the kubelet was faster by a moment": {
			breaks: func(s *scene) {
				s.node.containers["main-id"].keepErr = result.Errorf(result.ContainerNotFound, "removed")
			}, reason: result.ContainerNotFound,
			calls: []string{"find ended main", "report"},
		},
		"the registry fails": {
			breaks: func(s *scene) {
				s.before = func(w http.ResponseWriter, r *http.Request) bool {
					fails := r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/")
					if fails {
						w.WriteHeader(http.StatusForbidden)
					}
					return fails
				}
			}, reason: result.RegistryDenied,
			calls: []string{"find ended main", "keep main in ended-of-snap", "upload main", "upload main", "config main", "report", "let go of main"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.options.Containers = s.options.Containers[:1]
			s.options.Containers[0].Ended = true
			s.node.containers["main-id"].set(runtime.Paused)
			s.node.containers["side-id"].set(runtime.Paused)
			if test.breaks != nil {
				test.breaks(s)
			}
			err := s.commit(t.Context())
			report := s.last()
			if (err != nil) != (test.reason != "") || err != nil && report.Error.Reason != test.reason {
				t.Fatalf("%v, want %q", err, test.reason)
			}
			if !report.Thawed || report.FrozenMillis != 0 {
				t.Errorf("%+v: nothing was frozen", report)
			}
			if err == nil && (len(report.Containers) != 1 || report.Containers[0].Digest == "") {
				t.Errorf("reported %+v", report.Containers)
			}
			for _, c := range s.node.containers {
				if c.get() != runtime.Paused {
					t.Errorf("container %q is %s", c.name, c.get())
				}
			}
			if !slices.Equal(s.node.calls, test.calls) {
				t.Errorf("calls\n%q, want\n%q", s.node.calls, test.calls)
			}
		})
	}
}

// TestCommitOfWhatHasEndedWithWhatRuns: the rest of the Pod is frozen once what has ended was read, and stays so.
func TestCommitOfWhatHasEndedWithWhatRuns(t *testing.T) {
	s := newScene(t)
	s.options.LeaveFrozen = true
	s.options.Containers[0].Ended = true
	// It runs again, in the fake as in life by another ID.
	s.node.containers["main-id"].onCheck = func(int) error { return nil }
	if err := s.commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if report := s.last(); len(report.Containers) != 2 || report.Containers[0].Digest == "" || report.Containers[1].Digest == "" {
		t.Errorf("reported %+v", report)
	}
	read, frozen := slices.Index(s.node.calls, "upload main"), slices.Index(s.node.calls, "freeze side")
	if read < 0 || frozen < 0 || frozen < read {
		t.Errorf("calls %q: what has ended is read before the rest is frozen", s.node.calls)
	}
	if s.node.containers["side-id"].get() != runtime.Paused {
		t.Errorf("the rest is %s", s.node.containers["side-id"].get())
	}
}

// TestWhatIsFoundEndedIsKept: a pause of a Pod that the kubelet evicts finds its containers dead, and about to be removed.
func TestWhatIsFoundEndedIsKept(t *testing.T) {
	for name, fails := range map[string]error{"well": nil, "it cannot be kept": errors.New("no overlay")} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			for _, c := range s.node.containers {
				c.set(runtime.Ended)
				c.keepErr = fails
			}
			if err := s.commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := []string{"keep main in ended-of-snap", "keep side in ended-of-snap"}
			if fails != nil {
				want = s.node.calls[:2]
			}
			if got := s.node.calls[:2]; !slices.Equal(got, want) || slices.ContainsFunc(got, func(call string) bool { return fails != nil && strings.HasPrefix(call, "keep") }) {
				t.Errorf("first %q, want %q", got, want)
			}
		})
	}
}
