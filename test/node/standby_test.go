//go:build e2e

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

package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// TestWhatNobodyComesForIsThawed, all of it, and what somebody comes for is not.
func TestWhatNobodyComesForIsThawed(t *testing.T) {
	forRuntimes(t, func(t *testing.T, s *stage) {
		main, side := s.run("main", nil, "count:/count"), s.run("side", nil, "count:/count")
		both := []*container{main, side}
		main.runs("/count")
		side.runs("/count")
		lock := filepath.Join(t.TempDir(), "lock")
		if err := os.WriteFile(lock, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		standby := func(thawAfter time.Duration) chan result.Result {
			ended := make(chan result.Result, 1)
			go func() {
				// No container of that name is known, so the commit has ended.
				ended <- s.committer("standby", both, "--own-pod-uid=none", "--lock="+lock, "--thaw-after="+thawAfter.String())
			}()
			return ended
		}
		await := func(ended chan result.Result) result.Result {
			t.Helper()
			select {
			case r := <-ended:
				return r
			case <-time.After(soon):
				t.Fatal("the standby does not end")
				return result.Result{}
			}
		}
		if r := s.committer("commit", both, "--leave-frozen"); r.Error != nil {
			t.Fatal(r.Error)
		}
		main.stands("/count")
		if r := await(standby(time.Second)); r.Error == nil || r.Error.Reason != result.ThawedUnattended || !r.Thawed {
			t.Errorf("result %+v: %v", r, r.Error)
		}
		main.runs("/count")
		side.runs("/count")
		if asked, frozen := events(t, s.podCgroup()); asked || frozen {
			t.Errorf("of the Pod the kernel says asked %t, frozen %t", asked, frozen)
		}

		if r := s.committer("commit", both, "--leave-frozen"); r.Error != nil {
			t.Fatal(r.Error)
		}
		ended := standby(time.Minute)
		if r := s.committer("thaw", both, "--lock="+lock); r.Error != nil || !r.Thawed {
			t.Errorf("a thaw beside it: result %+v: %v", r, r.Error)
		}
		if r := await(ended); r.Error == nil || r.Error.Reason != result.ThawedUnattended || !r.Thawed {
			t.Errorf("of what is thawed beside it it says %+v: %v", r, r.Error)
		}
		main.runs("/count")
		side.runs("/count")

		if r := s.committer("commit", both, "--leave-frozen"); r.Error != nil {
			t.Fatal(r.Error)
		}
		ended = standby(time.Minute)
		if r := s.committer("kill", both, "--lock="+lock); r.Error != nil || !r.Thawed {
			t.Errorf("result %+v: %v", r, r.Error)
		}
		if r := await(ended); r.Error != nil {
			t.Errorf("result %+v: %v", r, r.Error)
		}
		if said, err := os.ReadFile(lock); err != nil || !strings.Contains(string(said), "killing at") {
			t.Errorf("the lock has %q (%v)", said, err)
		}
	})
}
