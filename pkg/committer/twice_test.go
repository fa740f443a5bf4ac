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
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/overlay"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// enlarge gives the container so many files that it is read twice.
func (s *scene) enlarge(c *fakeContainer) {
	s.t.Helper()
	if os.Geteuid() != 0 {
		s.t.Skip("needs root, to see trusted extended attributes")
	}
	for i := range largeEntries {
		if err := os.WriteFile(filepath.Join(c.upper, fmt.Sprint("many", i)), nil, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	copied, err := overlay.BeginCopy(context.Background(), c.upper, overlay.Options{})
	if err != nil {
		s.t.Skip("this file system cannot be read twice:", err)
	}
	copied.Close()
	if s.options.Clock == nil { // the kernel's counts what is a few seconds old as changed
		s.options.Clock = &steppedClock{ahead: -10 * time.Millisecond}
	}
	time.Sleep(20 * time.Millisecond) // more than a tick of the clock
}

// TestTwice has one large container, which changes until it is frozen, and a small one.
func TestTwice(t *testing.T) {
	order := map[bool][]string{
		true: {"upload main", "upload side", "upload main", "freeze main", "freeze side", "upload main", "upload side",
			"config main", "config side", "manifest main", "manifest side", "report"},
		// Both are thawed before anything more is pushed.
		false: {"upload main", "upload side", "upload main", "freeze main", "freeze side", "thaw main", "thaw side", "upload main", "upload side",
			"config main", "config side", "manifest main", "manifest side", "report"},
	}
	for leave, want := range order {
		t.Run(fmt.Sprintf("leaveFrozen=%v", leave), func(t *testing.T) {
			s := newScene(t)
			s.options.LeaveFrozen, s.options.SpoolDir = leave, t.TempDir()
			c := s.node.containers["main-id"]
			s.enlarge(c)
			c.onPause = func() error {
				return os.WriteFile(filepath.Join(c.upper, "many7"), []byte("at the last moment"), 0o600)
			}
			if err := s.commit(context.Background()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, inOrder(s.node.calls)); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			main, side := s.last().Containers[0], s.last().Containers[1]
			img := pull(t, main)
			if err := validate.Image(img, validate.Fast); err != nil {
				t.Error(err)
			}
			base := baseOf(t, img, strings.TrimSuffix(main.Image, ":tag"))
			if main.Layers != 2 || side.Layers != 1 || len(base.Manifest.Layers) != 3 || main.LayerBytes != base.Manifest.Layers[1].Size+base.Manifest.Layers[2].Size {
				t.Errorf("result %+v, %+v", main, side)
			}
			files := unpack(t, base)
			if files["many7"] != "at the last moment" || files["file"] != "of main" || len(files) != largeEntries+2 {
				t.Errorf("%d files, the changed one has %q", len(files), files["many7"])
			}
		})
	}
}

// TestWhatWasJustWrittenIsLeftToSettle: nothing is read before it is old, where there is much of it.
func TestWhatWasJustWrittenIsLeftToSettle(t *testing.T) {
	most := recentBytes
	defer func() { recentBytes = most }()
	for name, test := range map[string]struct {
		bytes int64
		waits bool
	}{"much": {1, true}, "little": {1 << 40, false}} {
		recentBytes = test.bytes
		s := newScene(t)
		s.options.LeaveFrozen = true
		c := s.node.containers["main-id"]
		s.enlarge(c)
		began := time.Now()
		var frozen time.Time
		c.onPause = func() error { frozen = time.Now(); return nil }
		if err := s.commit(context.Background()); err != nil {
			t.Fatal(err)
		}
		if waited := frozen.Sub(began) > 4*time.Second; waited != test.waits {
			t.Errorf("%s: it was frozen after %s", name, frozen.Sub(began))
		}
	}
}

// TestTwiceWithoutChanges needs no second layer.
func TestTwiceWithoutChanges(t *testing.T) {
	for _, leave := range []bool{true, false} {
		s := newScene(t)
		s.options.LeaveFrozen, s.options.SpoolDir = leave, t.TempDir()
		s.enlarge(s.node.containers["main-id"])
		if err := s.commit(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := s.last().Containers[0]; got.Layers != 1 {
			t.Errorf("result %+v", got)
		}
	}
}

// steppedClock is a clock that is set back once stepped is true: what it said before is
// after all that files are stamped with from then on.
type steppedClock struct {
	ahead   time.Duration
	stepped bool
	closed  int
}

func (c *steppedClock) Past() (time.Time, error) { return time.Now().Add(c.ahead), nil }
func (c *steppedClock) Close()                   { c.closed++ }
func (c *steppedClock) WasSet() error {
	if c.stepped {
		return errors.New("the clock was set")
	}
	return nil
}

// TestAClockThatIsSetBack steps it back by an hour between the passes: what changes then is
// stamped as if it were older than the first, so that all has to be read again.
func TestAClockThatIsSetBack(t *testing.T) {
	for _, leave := range []bool{true, false} {
		t.Run(fmt.Sprintf("leaveFrozen=%v", leave), func(t *testing.T) {
			s := newScene(t)
			clock := &steppedClock{ahead: time.Hour}
			s.options.LeaveFrozen, s.options.SpoolDir, s.options.Clock = leave, t.TempDir(), clock
			c := s.node.containers["main-id"]
			s.enlarge(c)
			c.onPause = func() error {
				clock.stepped = true
				return os.WriteFile(filepath.Join(c.upper, "many7"), []byte("at the last moment"), 0o600)
			}
			if err := s.commit(context.Background()); err != nil {
				t.Fatal(err)
			}
			main := s.last().Containers[0]
			img := pull(t, main)
			if err := validate.Image(img, validate.Fast); err != nil {
				t.Error(err)
			}
			base := baseOf(t, img, strings.TrimSuffix(main.Image, ":tag"))
			// One layer, which has all: that of the first pass is not in the image.
			if main.Layers != 1 || len(base.Manifest.Layers) != 2 || main.LayerBytes != base.Manifest.Layers[1].Size {
				t.Errorf("result %+v, layers %+v", main, base.Manifest.Layers)
			}
			files := unpack(t, base)
			if files["many7"] != "at the last moment" || files["file"] != "of main" || len(files) != largeEntries+2 {
				t.Errorf("%d files, the changed one has %q", len(files), files["many7"])
			}
			if clock.closed == 0 {
				t.Error("the clock is still watched")
			}
		})
	}
}

// TestMoreThanTheSpoolHolds stays frozen until it is pushed.
func TestMoreThanTheSpoolHolds(t *testing.T) {
	s := newScene(t)
	s.options.SpoolDir = t.TempDir()
	c := s.node.containers["main-id"]
	s.enlarge(c)
	c.onPause = func() error {
		return os.WriteFile(filepath.Join(c.upper, "many7"), make([]byte, maxSpool+1), 0o600)
	}
	if err := s.commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	calls := strings.Join(inOrder(s.node.calls), ", ")
	if !strings.Contains(calls, "freeze side, upload main, thaw main, thaw side, upload side") {
		t.Error(calls)
	}
}

// TestRegistryGoneBeforeTheFreeze fails without freezing.
func TestRegistryGoneBeforeTheFreeze(t *testing.T) {
	s := newScene(t)
	s.enlarge(s.node.containers["main-id"])
	uploads := 0
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			uploads++
		}
		if uploads > 2 { // the base's layers
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	}
	if err := s.commit(context.Background()); err == nil {
		t.Fatal("it succeeded")
	}
	if s.froze() || !s.last().Thawed || s.last().Error.Reason == "" {
		t.Errorf("calls %v, result %+v", s.node.calls, s.last())
	}
}

// TestMaxFrozen gives up, thaws, and says why.
func TestMaxFrozen(t *testing.T) {
	s := newScene(t)
	// Long enough to come as far as to push.
	s.options.LeaveFrozen, s.options.MaxFrozen = true, 2*time.Second
	over := make(chan struct{})
	s.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && s.froze() {
			<-over // a registry that does not answer
		}
		return false
	}
	err := s.commit(context.Background())
	close(over)
	if err == nil {
		t.Fatal("it succeeded")
	}
	r := s.last()
	if r.Error.Reason != result.FrozenTooLong || !r.Thawed || !strings.Contains(r.Error.Message, "2s") || !strings.Contains(r.Error.Message, "pushing the layer") {
		t.Errorf("result %+v", r)
	}
	s.states(runtime.Running)
}

// TestMaxFrozenCountsFrozenTime does not count what comes after the thaw.
func TestMaxFrozenCountsFrozenTime(t *testing.T) {
	s := newScene(t)
	s.options.MaxFrozen, s.options.SpoolDir = 3*time.Second, t.TempDir()
	slow := false
	s.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && s.froze() && !slow {
			slow = true
			time.Sleep(s.options.MaxFrozen + 500*time.Millisecond) // what is counted is time itself
		}
		return false
	}
	if err := s.commit(context.Background()); err != nil || !slow {
		t.Errorf("%v, slow %v", err, slow)
	}
}
