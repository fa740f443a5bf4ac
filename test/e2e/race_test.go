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
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	lifecycle "github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned"
)

const (
	racers = 100
	// raceTime bounds the race; a round that has begun is finished.
	raceTime = 60 * time.Second
	// raceRound is how long the racers of a round take to ask, so that they meet every phase.
	raceRound = 3 * time.Second
)

// counter appends numbered lines to a file, going on after the last one that is there. It prints
// which life it is and where it starts, then each number once the file has it.
const counter = `n=$(tail -n 1 /root/lines 2>/dev/null || true); n=${n:-0}
echo "life $(cat /proc/sys/kernel/random/uuid) $n"
while :; do n=$((n+1)); echo $n >> /root/lines; echo $n; usleep 20000; done`

func TestAHundredClientsRaceAndNothingIsLost(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo", func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.Containers[0].Command = []string{"sh", "-c", counter}
	})
	history := r.watchHistory("demo")
	counted := r.listen("demo")
	clients := r.manyClients(racers)

	verdicts := map[string]int{}
	asked := v1alpha1.DesiredStateRunning
	for end := time.Now().Add(raceTime); time.Now().Before(end) || asked == v1alpha1.DesiredStatePaused; {
		r.race(clients, verdicts)
		// Whatever the race has come to, the last word alternates.
		if asked == v1alpha1.DesiredStateRunning {
			asked = v1alpha1.DesiredStatePaused
		} else {
			asked = v1alpha1.DesiredStateRunning
		}
		begin := time.Now()
		r.insist("demo", asked)
		accepted := time.Since(begin)
		r.await("demo", "where it was wanted last", func(s *v1alpha1.Sandbox) bool { return s.Spec.DesiredState == asked && settled(s) })
		t.Logf("asked for %s: accepted after %s, there after %s", asked, accepted.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
	}
	t.Logf("%v", verdicts)

	after := r.awaitReady("demo")
	r.mustNotBeFrozen()
	if meta.FindStatusCondition(after.Status.Conditions, v1alpha1.ConditionDataLost) != nil {
		t.Errorf("after the race the sandbox is %s", describe(after))
	}
	r.lastLine("demo")
	counted.check(t)
	history.check(t, after.ResourceVersion)
}

// settled: nothing is under way.
func settled(s *v1alpha1.Sandbox) bool {
	if s.Spec.DesiredState == v1alpha1.DesiredStatePaused {
		return s.Status.Phase == v1alpha1.SandboxPaused
	}
	return s.Status.Phase == v1alpha1.SandboxRunning && meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionReady)
}

// insist asks until it is not refused any more.
func (r *room) insist(name string, desired v1alpha1.SandboxDesiredState) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("sandbox %s accepts that it shall be %s", name, desired), patience, func(ctx context.Context) (bool, string) {
		var err error
		if desired == v1alpha1.DesiredStatePaused {
			_, err = r.sandboxes().Pause(ctx, name, &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
		} else {
			_, err = r.sandboxes().Resume(ctx, name, &v1alpha1.SandboxResume{}, metav1.CreateOptions{})
		}
		return err == nil, fmt.Sprint(err)
	})
}

// manyClients are clients with connections and limits of their own.
func (r *room) manyClients(n int) []lifecycle.Interface {
	r.t.Helper()
	clients := make([]lifecycle.Interface, n)
	for i := range clients {
		config := rest.CopyConfig(r.config)
		config.UserAgent = fmt.Sprintf("racer-%d", i)
		var err error
		if clients[i], err = lifecycle.NewForConfig(config); err != nil {
			r.t.Fatal(err)
		}
	}
	return clients
}

// race lets each client ask once, for either of the two, at any time of the round. Each answer
// must be one of the table's.
func (r *room) race(clients []lifecycle.Interface, verdicts map[string]int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	var mutex sync.Mutex
	var group sync.WaitGroup
	for _, client := range clients {
		pause, delay := rand.IntN(2) == 0, rand.N(raceRound) //nolint:gosec // a race, no secret
		group.Go(func() {
			select {
			case <-ctx.Done():
			case <-time.After(delay):
			}
			sandboxes := client.LifecycleV1alpha1().Sandboxes(r.namespace)
			verb, answer, err := "resume", (*v1alpha1.Sandbox)(nil), error(nil)
			if pause {
				verb = "pause"
				answer, err = sandboxes.Pause(ctx, "demo", &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
			} else {
				answer, err = sandboxes.Resume(ctx, "demo", &v1alpha1.SandboxResume{}, metav1.CreateOptions{})
			}
			verdict, problem := judge(verb, answer, err)
			mutex.Lock()
			defer mutex.Unlock()
			verdicts[verb+" "+verdict]++
			if problem != "" {
				r.t.Errorf("%s: %s", verb, problem)
			}
		})
	}
	group.Wait()
}

// judge names the answer to a verb, and says what is wrong with one that is not in the table.
func judge(verb string, answer *v1alpha1.Sandbox, err error) (verdict, problem string) {
	var refusal apierrors.APIStatus
	switch {
	case err != nil && !errors.As(err, &refusal):
		return "failed", err.Error()
	case err != nil:
		status := refusal.Status()
		if status.Code != 409 || status.Details == nil || len(status.Details.Causes) != 1 {
			return "failed", fmt.Sprintf("%v is no refusal with a cause", err)
		}
		cause := string(status.Details.Causes[0].Type)
		if allowed := map[string][]string{"pause": {"UnexpectedPhase", "PauseCanceling"}}[verb]; !slices.Contains(allowed, cause) {
			return cause, fmt.Sprintf("refused with %v", status.Details.Causes)
		}
		return cause, ""
	}
	phase, desired := answer.Status.Phase, answer.Spec.DesiredState
	wanted := map[string]struct {
		desired v1alpha1.SandboxDesiredState
		phases  []v1alpha1.SandboxPhase
	}{
		"pause":  {v1alpha1.DesiredStatePaused, []v1alpha1.SandboxPhase{v1alpha1.SandboxPausing, v1alpha1.SandboxPaused, v1alpha1.SandboxResuming}},
		"resume": {v1alpha1.DesiredStateRunning, []v1alpha1.SandboxPhase{v1alpha1.SandboxRunning, v1alpha1.SandboxPausing, v1alpha1.SandboxResuming}},
	}[verb]
	if desired != wanted.desired || !slices.Contains(wanted.phases, phase) {
		return string(phase), "the answer is " + describe(answer)
	}
	return string(phase), ""
}

// counts are the numbers that the lives of a counter printed.
type counts struct {
	mutex sync.Mutex
	lives map[string]*life
	order []string
	ended chan struct{}
	stop  context.CancelFunc
}

type life struct{ start, last int64 }

// listen reads the log of the sandbox's container main for as long as the test runs, from Pod to
// Pod. What it has read was on the disk before.
func (r *room) listen(sandbox string) *counts {
	ctx, cancel := context.WithCancel(r.t.Context())
	c := &counts{lives: map[string]*life{}, ended: make(chan struct{}), stop: cancel}
	go func() {
		defer close(c.ended)
		for ctx.Err() == nil {
			// There is no Pod, or it has ended: the next one is awaited.
			if stream, err := r.kube.CoreV1().Pods(r.namespace).GetLogs(sandbox, &corev1.PodLogOptions{Container: "main", Follow: true}).Stream(ctx); err == nil {
				c.read(bufio.NewScanner(stream))
				_ = stream.Close()
			}
			_ = pauseBriefly(ctx)
		}
	}()
	r.t.Cleanup(cancel)
	return c
}

func (c *counts) read(log *bufio.Scanner) {
	var now *life
	for log.Scan() {
		words := strings.Fields(log.Text())
		if len(words) == 0 {
			continue
		}
		n, err := strconv.ParseInt(words[len(words)-1], 10, 64)
		if err != nil {
			continue
		}
		c.mutex.Lock()
		if len(words) == 3 && words[0] == "life" {
			// A log that is followed again begins anew.
			if now = c.lives[words[1]]; now == nil {
				now = &life{start: n, last: n}
				c.lives[words[1]] = now
				c.order = append(c.order, words[1])
			}
		} else if now != nil {
			now.last = max(now.last, n)
		}
		c.mutex.Unlock()
	}
}

// check looks for a life that began before the end of the one before it: what lay between is lost.
func (c *counts) check(t *testing.T) {
	t.Helper()
	c.stop()
	<-c.ended
	if len(c.order) < 2 {
		t.Errorf("the counter had %d lives, so nothing was ever brought back", len(c.order))
	}
	last := int64(0)
	for _, id := range c.order {
		if now := c.lives[id]; now.start < last {
			t.Errorf("a Pod came back with %d lines, of which %d had been acknowledged", now.start, last)
		} else {
			last = now.last
		}
	}
	t.Logf("%d lives and %d lines", len(c.order), last)
}

// history is every state that a sandbox was stored in.
type history struct {
	mutex  sync.Mutex
	states []*v1alpha1.Sandbox
	// ended is how the watch ended, if it did.
	ended *watch.Event
}

// watchHistory remembers what the sandbox goes through from now on.
func (r *room) watchHistory(name string) *history {
	r.t.Helper()
	now := r.get(name)
	watcher, err := r.sandboxes().Watch(r.t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name, ResourceVersion: now.ResourceVersion})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(watcher.Stop)
	h := &history{states: []*v1alpha1.Sandbox{now}}
	go func() {
		for event := range watcher.ResultChan() {
			h.mutex.Lock()
			if sandbox, ok := event.Object.(*v1alpha1.Sandbox); ok && event.Type == watch.Modified {
				h.states = append(h.states, sandbox)
			} else {
				h.ended = &event
			}
			h.mutex.Unlock()
		}
	}()
	return h
}

// until waits for the state of a resourceVersion and returns all up to it.
func (h *history) until(t *testing.T, resourceVersion string) []*v1alpha1.Sandbox {
	t.Helper()
	var states []*v1alpha1.Sandbox
	eventually(t, "the watch has shown resourceVersion "+resourceVersion, patience, func(context.Context) (bool, string) {
		h.mutex.Lock()
		defer h.mutex.Unlock()
		at := slices.IndexFunc(h.states, func(s *v1alpha1.Sandbox) bool { return s.ResourceVersion == resourceVersion })
		states = slices.Clone(h.states[:at+1])
		return at >= 0, fmt.Sprintf("%d states, end %v", len(h.states), h.ended)
	})
	return states
}

// steps are the phases that a sandbox may go to from each, while nothing fails.
var steps = map[v1alpha1.SandboxPhase][]v1alpha1.SandboxPhase{
	v1alpha1.SandboxRunning: {v1alpha1.SandboxPausing},
	// To Running where it is cancelled, to Resuming where the resume came after the mark.
	v1alpha1.SandboxPausing:  {v1alpha1.SandboxPaused, v1alpha1.SandboxRunning, v1alpha1.SandboxResuming},
	v1alpha1.SandboxPaused:   {v1alpha1.SandboxResuming},
	v1alpha1.SandboxResuming: {v1alpha1.SandboxRunning, v1alpha1.SandboxPaused},
}

// check reads the history up to a resourceVersion and looks for a state, or a step between two,
// that is not in the table.
func (h *history) check(t *testing.T, until string) {
	t.Helper()
	states := h.until(t, until)
	for i, now := range states {
		if problem := contradiction(now); problem != "" {
			t.Errorf("%s: %s", problem, describe(now))
		}
		if i == 0 {
			continue
		}
		before := states[i-1]
		from, to := before.Status.Phase, now.Status.Phase
		if from != to && !slices.Contains(steps[from], to) {
			t.Errorf("from %s to %s: %s; then %s", from, to, describe(before), describe(now))
		}
		if now.Status.SnapshotAttempts < before.Status.SnapshotAttempts || now.Generation < before.Generation {
			t.Errorf("counted backwards: %s; then %s", describe(before), describe(now))
		}
	}
	t.Logf("%d states", len(states))
}

// contradiction says what in a state cannot be true at once.
func contradiction(s *v1alpha1.Sandbox) string {
	ready := meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionReady)
	paused := meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionPaused)
	phase := s.Status.Phase
	switch {
	case paused != (phase == v1alpha1.SandboxPaused) && reasonOf(s.Status.Conditions, v1alpha1.ConditionPaused) != v1alpha1.ReasonFilesLost:
		return "the condition Paused and the phase disagree"
	case ready && phase != v1alpha1.SandboxRunning && (phase != v1alpha1.SandboxPausing || s.Status.Move == nil):
		// One that moves is as its Pod is, until its commit begins.
		return "ready, and not running"
	case paused && (s.Status.SnapshotName == "" || s.Status.PodName != "" || s.Status.PodUID != ""):
		return "paused without a snapshot, or with a Pod"
	case phase == v1alpha1.SandboxRunning && s.Status.PodUID == "":
		return "running without a Pod"
	}
	return ""
}
