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

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

const (
	walkers = 3
	// stride is how many steps there are between two rests, longestWait the longest time between two steps.
	stride      = 10
	longestWait = 2500 * time.Millisecond
)

// walk is sandboxes that count, and those who use, break and mend what they live on. What happens is drawn from the seed alone,
// and not from what there is: the same seed makes the same steps.
type walk struct {
	*room
	seed     uint64
	rand     *rand.Rand
	registry *troubledRegistry
	walkers  []*walker
	past     []string
	began    time.Time
	// gone are sandboxes that were deleted, kubelet ends a standstill of the node's.
	gone    []string
	kubelet func()
}

// walker is one sandbox after the other.
type walker struct {
	number, lives int
	name          string
	tally         *tally
}

// usualSeed is that of `make test`, where a failure is to be the fault of what was changed. The nightly target draws another each time.
const usualSeed = 1796085895277664451

// TestRandomWalk goes through verbs and faults at random for as long as WALK says. SEED makes the steps of another walk again.
// It runs alone: it kills the server.
func TestRandomWalk(t *testing.T) {
	length := 3 * time.Minute
	if given := os.Getenv("WALK"); given != "" {
		var err error
		if length, err = time.ParseDuration(given); err != nil {
			t.Fatalf("WALK: %v", err)
		}
	}
	seed := uint64(usualSeed)
	if given := os.Getenv("SEED"); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatalf("SEED: %v", err)
		}
	}
	w := &walk{room: newRoom(t), seed: seed, rand: rand.New(rand.NewPCG(seed, 11)), began: time.Now(), kubelet: func() {}}
	w.killedCommitter = true // one may be at any time, and leaves what it had begun to upload
	t.Cleanup(w.tellIfFailed)
	w.registry = w.newTroubledRegistry(t)
	w.withServerArgs(t, "--snapshot-registry="+w.registry.host+"/sandboxes", "--thaw-after=30s",
		// Another Pod of the server waits for the lease of the one before.
		"--leader-elect-lease-duration=6s", "--leader-elect-renew-deadline=4s", "--leader-elect-retry-period=1s")
	t.Cleanup(w.mend)
	for number := range walkers {
		w.walkers = append(w.walkers, &walker{number: number})
		w.born(w.walkers[number])
	}
	for end := time.Now().Add(length); time.Now().Before(end) && !t.Failed(); {
		for range stride {
			w.step()
		}
		w.rest()
	}
	for _, of := range w.walkers {
		for _, problem := range of.tally.end(t) {
			t.Error(problem)
		}
	}
}

// tellIfFailed says how to walk that way again.
func (w *walk) tellIfFailed() {
	if w.t.Failed() {
		w.t.Logf("the walk of SEED=%d:\n  %s", w.seed, strings.Join(w.past, "\n  "))
	} else {
		w.t.Logf("walked %d steps of SEED=%d", len(w.past), w.seed)
	}
}

func (w *walk) note(format string, args ...any) {
	w.past = append(w.past, fmt.Sprintf("%6.1f s  ", time.Since(w.began).Seconds())+fmt.Sprintf(format, args...))
}

// born begins another sandbox of a walker.
func (w *walk) born(of *walker) {
	w.t.Helper()
	of.lives++
	of.name = fmt.Sprintf("walker-%d-%d", of.number, of.lives)
	created := w.create(of.name, tallied)
	of.tally = w.follow(created)
	w.awaitReady(of.name)
}

// step draws what happens, to whom, how, and for how long nothing happens then: always as many numbers.
func (w *walk) step() {
	w.t.Helper()
	which, whom, how, wait := w.rand.IntN(allDeeds), w.rand.IntN(walkers), w.rand.Uint64(), time.Duration(w.rand.Int64N(int64(longestWait)))
	for _, deed := range deeds {
		if which -= deed.weight; which < 0 {
			w.does(deed, w.walkers[whom], how)
			break
		}
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.t.Context().Done():
	}
}

func (w *walk) does(deed deed, of *walker, how uint64) {
	w.t.Helper()
	if of.name == "" {
		w.note("%s: nobody, it was deleted", deed.name)
		return
	}
	at := len(w.past)
	w.note("%s, %s", deed.name, of.name)
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	w.past[at] += ": " + deed.do(ctx, w, of, how)
}

// mend takes back whatever is broken.
func (w *walk) mend() {
	w.registry.is(registryWell)
	w.kubelet()
}

// rest mends all, lets everybody come to where the next verb wants it, and looks whether all that must hold does.
func (w *walk) rest() {
	w.t.Helper()
	w.note("rest")
	w.mend()
	for _, of := range w.walkers {
		paused := w.rand.IntN(2) == 0
		if of.name == "" {
			continue
		}
		w.leads(of, paused)
	}
	for _, of := range w.walkers {
		if of.name != "" {
			w.arrives(of)
		}
	}
	w.mustHold()
	for _, of := range w.walkers {
		for _, problem := range of.tally.problems() {
			w.t.Error(problem)
		}
	}
	for _, name := range w.gone {
		w.awaitSandboxGone(name)
	}
	w.gone = nil
	if w.t.Failed() {
		w.t.FailNow()
	}
	for _, of := range w.walkers {
		if of.name == "" {
			w.born(of)
		}
	}
}

// leads asks for a state until it is taken.
func (w *walk) leads(of *walker, paused bool) {
	w.t.Helper()
	state := v1alpha1.DesiredStateRunning
	if paused {
		state = v1alpha1.DesiredStatePaused
	}
	w.note("  %s shall be %s", of.name, state)
	eventually(w.t, fmt.Sprintf("sandbox %s takes that it shall be %s", of.name, state), patience, func(ctx context.Context) (bool, string) {
		err := w.ask(ctx, of, state)
		return err == nil, fmt.Sprint(err)
	})
}

// ask is what a person does: a sandbox that has failed for good is started from what there is.
func (w *walk) ask(ctx context.Context, of *walker, state v1alpha1.SandboxDesiredState) error {
	now, err := w.sandboxes().Get(ctx, of.name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if now.Status.Phase == v1alpha1.SandboxFailed || state == v1alpha1.DesiredStateRunning {
		_, err = w.sandboxes().Resume(ctx, of.name, &v1alpha1.SandboxResume{}, metav1.CreateOptions{})
		if apierrors.IsConflict(err) && now.Status.PodUID == "" {
			if _, err = w.sandboxes().Resume(ctx, of.name, &v1alpha1.SandboxResume{FromTemplate: true}, metav1.CreateOptions{}); err == nil {
				of.tally.wants()
			}
		}
		if err != nil || state == v1alpha1.DesiredStateRunning {
			return err
		}
		return fmt.Errorf("it was %s, and is resumed first", now.Status.Phase)
	}
	_, err = w.sandboxes().Pause(ctx, of.name, &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
	return err
}

// arrives waits until a sandbox is where it is wanted. What waits for a person's word gets it.
func (w *walk) arrives(of *walker) {
	w.t.Helper()
	wanted := w.get(of.name).Spec.DesiredState
	w.await(of.name, "where it was wanted last", func(s *v1alpha1.Sandbox) bool {
		waits := reasonOf(s.Status.Conditions, v1alpha1.ConditionPaused) == v1alpha1.ReasonFilesLost || s.Status.Phase == v1alpha1.SandboxFailed
		if settled(s) {
			return true
		}
		if waits {
			w.note("  %s is %s, and asked again: %v", of.name, s.Status.Phase, w.ask(w.t.Context(), of, wanted))
		}
		return false
	})
}
