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
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

// staying is what is known of what the attempt's commit left frozen.
type staying int

const (
	// stays: it is frozen, for long enough to remove its Pod; or it has ended.
	stays staying = iota
	// unclaimed: its node may thaw it at any time, for it has not been told that somebody is there.
	unclaimed
	// claiming: it is being told.
	claiming
	// unanswered: it could not be told a moment ago.
	unanswered
	// ranOn: it was thawed on its node, and has run on.
	ranOn
	// unknown: nobody is there any more who could say.
	unknown
)

// claimAgain is how long after a claim that failed comes the next.
const claimAgain = 10 * time.Second

// secured is the last thing before a Pod is marked for removal, and before it is deleted: what is to be
// done first, if anything. A Pod that has run on since its commit is not removed for it, also where it
// was marked. What it has written since, the next attempt saves.
func (o *observed) secured(next *nextStatus) (action, bool) {
	switch o.staying {
	case stays:
		return action{}, true
	case unclaimed:
		return action{do: claim}, false
	case claiming:
		return action{do: wait}, false
	case unanswered:
		return action{do: wait, after: claimAgain}, false
	}
	if !o.thawed {
		return o.thaws(next), false
	}
	next.SnapshotName = o.attempt.Name // the newest that there is, should the Pod go now
	if o.wants(v1alpha1.DesiredStateRunning) && !o.moves() {
		return o.canceled(next), false
	}
	return o.attemptFailed(next, metav1.Condition{Reason: v1alpha1.ReasonThawedUnattended, Message: o.stayFault}), false
}

// staying finds that out. Nothing is asked for an attempt that this process has begun itself, and a short
// while ago: nearly all.
func (r *Reconciler) staying(ctx context.Context, seen *observed) error {
	if r.Jobs.StaysFrozen(seen.attempt) {
		return nil
	}
	last, known := r.claims.of(client.ObjectKeyFromObject(seen.sandbox), seen.attempt.Status.SourcePodUID)
	if known && last.how == killUnderWay {
		seen.staying = claiming
		return nil
	}
	standby, err := r.Jobs.Standby(ctx, seen.attempt)
	if err != nil {
		return err
	}
	switch {
	case standby.State == commitjob.Succeeded: // all that was frozen has ended
	case standby.State == commitjob.Active && known && seen.now.Sub(last.at) < claimAgain:
		seen.staying = unanswered
	case standby.State == commitjob.Active:
		seen.staying = unclaimed
	case standby.Reason == v1alpha1.ReasonThawedUnattended:
		seen.staying, seen.stayFault, seen.thawed = ranOn, standby.Message, seen.thawed || standby.Thawed
	default:
		seen.staying, seen.stayFault = unknown, "the server was away, and what the commit left frozen may have been thawed and have run on: "+standby.Message
	}
	return nil
}

// claim begins to tell the node that somebody is there.
func (r *Reconciler) claim(ctx context.Context, seen *observed) error {
	return r.claims.begin(ctx, client.ObjectKeyFromObject(seen.sandbox), seen.attempt.Status.SourcePodUID, func(ctx context.Context) commitjob.Outcome {
		outcome := r.Jobs.Claim(ctx, seen.attempt)
		outcome.Ended = r.Clock.Now()
		return outcome
	})
}
