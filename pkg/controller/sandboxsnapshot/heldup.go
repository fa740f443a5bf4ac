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

package sandboxsnapshot

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
)

// An API that does not do what it is asked, or a Secret that may not be read, holds up a snapshot. That is told in its
// condition at once, it is tried again, and it costs nobody else a slot. What has not begun by the end
// of patience has failed, with the API's answer: whoever waits is better served by another attempt.

const (
	// patience is for how long a commit may be held up before it begins. A quota may have room in a moment, and
	// a webhook may be back.
	patience = 30 * time.Second
	// lateness is how long after a creation without an answer the object may still appear: an API server gives up a request
	// after a minute.
	lateness = time.Minute
	// longestWait is how long nothing is tried at most: something may be frozen.
	longestWait = 15 * time.Second
)

// troubles are those that a snapshot has had since it last got on.
type troubles struct {
	// since is when the first was, zero where there was none, and tries their number.
	since time.Time
	tries int32
	// until is when the next try is due: what happens meanwhile, an edit of the sandbox for instance, brings visits.
	until time.Time
	// created is when a Job was last created without an answer that says whether it was, and last what was last said.
	created time.Time
	last    string
}

// trouble is one thing that could not be done.
type trouble struct {
	doing verb
	err   error
}

// notCreated is the answer to the creation of a Job.
type notCreated struct{ error }

func (n *notCreated) Unwrap() error { return n.error }

// creating says whether the API has been asked for a Job.
func (t *trouble) creating() bool {
	answered := (*notCreated)(nil)
	return errors.As(t.err, &answered)
}

// heldUp is what to do after trouble.
func (o *observed) heldUp() action {
	message := o.trouble.err.Error()
	again := o.past.until.Sub(o.now)
	if o.snapshot.DeletionTimestamp == nil && o.snapshot.Status.Phase != v1alpha1.SnapshotCommitting {
		switch late := o.now.Sub(o.past.since) >= patience; {
		case o.trouble.creating() && answer.OfCreate(o.trouble.err) == answer.Final:
			return o.fail(v1alpha1.ReasonCommitPodRejected, "the commit Job is refused: "+message)
		case late && o.job != nil && o.job.Job != nil:
			// What waits for it has to be ended.
			if next, ok := o.begun(); ok {
				return o.ends(next, v1alpha1.ReasonHeldUp, message)
			}
		case late && o.past.created.IsZero():
			return o.fail(v1alpha1.ReasonHeldUp, fmt.Sprintf("tried %d times in %s: %s", o.past.tries, o.now.Sub(o.past.since).Round(time.Second), message))
		}
	}
	act := o.rests(o.tellsOf(message), again)
	act.keepsSlot = !o.past.created.IsZero() || o.job != nil && o.job.Job != nil
	return act
}

// tellsOf is the status that tells of trouble.
func (o *observed) tellsOf(message string) *nextStatus {
	next := o.next()
	ending := o.ending()
	switch {
	case ending != nil:
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonThawing, "the attempt ended (%s); making sure that nothing stays frozen: %s", ending.Reason, message)
	case o.snapshot.DeletionTimestamp != nil:
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonHeldUp, "the deletion waits: %s", message)
	case o.snapshot.Status.Phase == v1alpha1.SnapshotCommitting:
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonHeldUp, "how far the commit is cannot be seen: %s", message)
	default:
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonHeldUp, "tried again for %s: %s", patience, message)
	}
	return next
}

// mayStillAppear goes on with a snapshot whose Job was not there just now, though it was created: an answer that did not
// come says nothing. It is not created again, and no other attempt begins, until it would be there.
func (o *observed) mayStillAppear() (action, bool) {
	if o.past.created.IsZero() || o.now.Sub(o.past.since) < patience {
		return action{}, false
	}
	if left := o.past.created.Add(lateness).Sub(o.now); left > 0 {
		return action{do: wait, rest: true, after: left, keepsSlot: true, remembers: true}, true
	}
	return o.fail(v1alpha1.ReasonHeldUp, fmt.Sprintf("tried %d times: %s", o.past.tries, o.past.last)), true
}

// holdsOff waits until the next try is due, and tells why where that could not be told before.
func (o *observed) holdsOff() (action, bool) {
	left := o.past.until.Sub(o.now)
	if left <= 0 {
		return action{}, false
	}
	act := o.rests(o.tellsOf(o.past.last), left)
	act.keepsSlot, act.remembers = !o.past.created.IsZero(), true
	return act, true
}

// memory has the troubles of snapshots. After a restart each begins anew.
type memory struct {
	mutex sync.Mutex
	of    map[client.ObjectKey]troubles
}

func (m *memory) get(key client.ObjectKey) troubles {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.of[key]
}

func (m *memory) note(key client.ObjectKey, now time.Time, met *trouble) troubles {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.of == nil {
		m.of = map[client.ObjectKey]troubles{}
	}
	past := m.of[key]
	if past.since.IsZero() {
		past.since = now
	}
	past.tries++
	past.last = met.err.Error()
	past.until = now.Add(min(answer.Wait(met.err, past.tries), longestWait))
	if met.creating() && answer.OfCreate(met.err) == answer.Passing {
		past.created = now
	}
	m.of[key] = past
	return past
}

func (m *memory) forget(key client.ObjectKey) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	delete(m.of, key)
}

// isTrouble says whether an error is to be told: one of our own, a conflict for instance, is looked at again at once.
func isTrouble(err error) bool {
	return answer.Of(err) != answer.Ours
}
