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
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// tallied counts in a file, as counter does, beside a few megabytes that are others in each life. It tells of which Pod a life
// is, and where it begins.
func tallied(s *v1alpha1.Sandbox) {
	c := &s.Spec.Template.Spec.Containers[0]
	c.Command = []string{"sh", "-c", `n=$(tail -n 1 /root/lines 2>/dev/null || true); n=${n:-0}
echo "life $POD $(cat /proc/sys/kernel/random/uuid) $n"
dd if=/dev/urandom of=/root/ballast bs=1M count=4 2>/dev/null &
while :; do n=$((n+1)); echo $n >> /root/lines; echo $n; usleep 20000; done`}
	c.Env = []corev1.EnvVar{{Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.uid"}}}}
}

// tally is what the lives of a sandbox's counter have told, and what the sandbox has said of them.
type tally struct {
	sandbox string
	mutex   sync.Mutex
	lives   map[string]*talliedLife
	order   []string
	// said are the Pods of which DataLost was true, next that it was while there was none.
	said map[types.UID]bool
	next bool
	// wanted are when somebody asked for older files.
	wanted []time.Time
	// wrong is what a state of the sandbox contradicted itself in.
	wrong []string
	ended error
	stop  context.CancelFunc
	done  sync.WaitGroup
}

type talliedLife struct {
	pod         types.UID
	heard       time.Time
	start, last int64
}

// follow reads the log of the sandbox's container main from Pod to Pod, and every state of the sandbox.
func (r *room) follow(sandbox *v1alpha1.Sandbox) *tally {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	r.t.Cleanup(cancel)
	y := &tally{sandbox: sandbox.Name, lives: map[string]*talliedLife{}, said: map[types.UID]bool{}, stop: cancel}
	// It goes on where it was when the server is killed: no state may be missed.
	watcher, err := watchtools.NewRetryWatcherWithContext(ctx, sandbox.ResourceVersion, sandboxWatcher{r, sandbox.Name})
	if err != nil {
		r.t.Fatal(err)
	}
	y.done.Go(func() {
		for event := range watcher.ResultChan() {
			y.see(event)
		}
	})
	y.done.Go(func() {
		for ctx.Err() == nil {
			// There is no Pod, or it has ended, or its node is out of reach: again.
			if stream, err := r.kube.CoreV1().Pods(r.namespace).GetLogs(sandbox.Name, &corev1.PodLogOptions{Container: "main", Follow: true}).Stream(ctx); err == nil {
				y.read(bufio.NewScanner(stream))
				_ = stream.Close()
			}
			_ = pauseBriefly(ctx)
		}
	})
	return y
}

// sandboxWatcher watches one sandbox.
type sandboxWatcher struct {
	room *room
	name string
}

// WatchWithContext implements cache.WatcherWithContext.
func (w sandboxWatcher) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	options.FieldSelector = "metadata.name=" + w.name
	return w.room.sandboxes().Watch(ctx, options)
}

func (y *tally) see(event watch.Event) {
	y.mutex.Lock()
	defer y.mutex.Unlock()
	sandbox, ok := event.Object.(*v1alpha1.Sandbox)
	if !ok {
		if event.Type == watch.Error {
			y.ended = fmt.Errorf("the watch of sandbox %s: %v", y.sandbox, event.Object)
		}
		return
	}
	if event.Type == watch.Deleted {
		return
	}
	if problem := contradiction(sandbox); problem != "" {
		y.wrong = append(y.wrong, problem+": "+describe(sandbox))
	}
	lost := meta.IsStatusConditionTrue(sandbox.Status.Conditions, v1alpha1.ConditionDataLost)
	if pod := sandbox.Status.PodUID; pod == "" {
		y.next = lost
	} else {
		y.said[pod] = y.said[pod] || lost || y.next
		y.next = false
	}
}

func (y *tally) read(log *bufio.Scanner) {
	var now *talliedLife
	for log.Scan() {
		words := strings.Fields(log.Text())
		if len(words) == 0 {
			continue
		}
		n, err := strconv.ParseInt(words[len(words)-1], 10, 64)
		if err != nil {
			continue
		}
		y.mutex.Lock()
		if len(words) == 4 && words[0] == "life" {
			// A log that is followed again begins anew.
			if now = y.lives[words[2]]; now == nil {
				now = &talliedLife{pod: types.UID(words[1]), heard: time.Now(), start: n, last: n}
				y.lives[words[2]] = now
				y.order = append(y.order, words[2])
			}
		} else if now != nil {
			now.last = max(now.last, n)
		}
		y.mutex.Unlock()
	}
}

// wants notes that somebody has asked for older files.
func (y *tally) wants() {
	y.mutex.Lock()
	defer y.mutex.Unlock()
	y.wanted = append(y.wanted, time.Now())
}

// problems are losses that nobody has asked for and that the sandbox has not said, and states that contradict themselves.
func (y *tally) problems() []string {
	y.mutex.Lock()
	defer y.mutex.Unlock()
	all := slices.Clone(y.wrong)
	if y.ended != nil {
		all = append(all, y.ended.Error())
	}
	last, since := int64(0), time.Time{}
	for _, id := range y.order {
		life := y.lives[id]
		wanted := slices.ContainsFunc(y.wanted, func(at time.Time) bool { return at.After(since) && !at.After(life.heard) })
		if life.start < last && !wanted && !y.said[life.pod] {
			all = append(all, fmt.Sprintf("sandbox %s: Pod %s began with %d lines, %d had been acknowledged, and DataLost was never true", y.sandbox, life.pod, life.start, last))
		}
		last, since = life.last, life.heard
	}
	return all
}

// end returns when all has been read, and what was wrong.
func (y *tally) end(t *testing.T) []string {
	t.Helper()
	y.stop()
	y.done.Wait()
	y.mutex.Lock()
	last := int64(0)
	for _, life := range y.lives {
		last = max(last, life.last)
	}
	t.Logf("sandbox %s: %d lives, %d lines", y.sandbox, len(y.order), last)
	y.mutex.Unlock()
	return y.problems()
}
