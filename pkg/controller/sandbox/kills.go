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

package sandbox

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

// kills are what is being killed, and what came of the last kill of each sandbox. One may take
// seconds, in which no worker waits for it. They are kept in memory: after a restart a kill is asked
// for again, and finds what is left to do.
type kills struct {
	mutex sync.Mutex
	last  map[client.ObjectKey]aKill
	// begun is for Start, ended tells of the sandboxes to visit.
	begun chan func(context.Context)
	ended chan event.GenericEvent
}

// aKill is of what is frozen in one Pod.
type aKill struct {
	pod   types.UID
	how   killing
	fault string
	at    time.Time // of its end, where its outcome has one
}

func newKills() *kills {
	return &kills{last: map[client.ObjectKey]aKill{}, begun: make(chan func(context.Context)), ended: make(chan event.GenericEvent)}
}

// NeedLeaderElection says that only who leads kills, as only it begins to.
func (k *kills) NeedLeaderElection() bool { return true }

// Start lets kills run until ctx ends, and returns when all have ended.
func (k *kills) Start(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case kill := <-k.begun:
			running.Go(func() { kill(ctx) })
		}
	}
}

// begin has a kill run, of which the sandbox is told when it ends.
func (k *kills) begin(ctx context.Context, sandbox client.ObjectKey, pod types.UID, kill func(context.Context) commitjob.Outcome) error {
	k.note(sandbox, aKill{pod: pod, how: killUnderWay})
	select {
	case k.begun <- func(ctx context.Context) { k.end(ctx, sandbox, pod, kill(ctx)) }:
		return nil
	case <-ctx.Done():
		k.forget(sandbox)
		return fmt.Errorf("kill what is frozen in the Pod of sandbox %s: %w", sandbox, context.Cause(ctx))
	}
}

func (k *kills) end(ctx context.Context, sandbox client.ObjectKey, pod types.UID, outcome commitjob.Outcome) {
	ended := aKill{pod: pod, how: killed, at: outcome.Ended}
	if outcome.State != commitjob.Succeeded {
		ended.how, ended.fault = killFailed, outcome.Message
	}
	if ctx.Err() != nil {
		return // cut off: whoever leads next asks again
	}
	k.note(sandbox, ended)
	select {
	case k.ended <- event.GenericEvent{Object: &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: sandbox.Namespace, Name: sandbox.Name}}}:
	case <-ctx.Done():
	}
}

// of is the last kill of a sandbox, if it was of that Pod.
func (k *kills) of(sandbox client.ObjectKey, pod types.UID) (kill aKill, known bool) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	kill, known = k.last[sandbox]
	return kill, known && kill.pod == pod
}

func (k *kills) note(sandbox client.ObjectKey, kill aKill) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	k.last[sandbox] = kill
}

func (k *kills) forget(sandbox client.ObjectKey) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	delete(k.last, sandbox)
}
