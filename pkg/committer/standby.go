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
	"log/slog"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// StandbyOptions are the arguments of one standby.
type StandbyOptions struct {
	// OwnPodUID is the UID of the Pod that this runs in, Commit the name of its container that commits.
	OwnPodUID, Commit string
	// PodUID and Containers are what that commits.
	PodUID     string
	Containers []runtime.Ref
	// ThawAfter is how long after the end of the commit, or after the last claim, what it left frozen is
	// thawed.
	ThawAfter time.Duration
	// CommitThaws is that the commit leaves nothing frozen where it succeeds.
	CommitThaws bool
	// Claims are of whoever comes for it.
	Claims Claims
	// Grace is how long it waits for the end of the commit once it is told to end itself; 0 stands for 25 s.
	Grace time.Duration
	// LookAgain is how often is looked whether it is frozen still; 0 stands for 2 s.
	LookAgain time.Duration
	Log       *slog.Logger
}

// Claims are what is said to a standby by those who have come to end what is frozen.
type Claims interface {
	// Close waits until no kill and no claim is under way, and keeps others from beginning, until
	// reopen is called. It returns the last that was there.
	Close() (last Claim, reopen func(), err error)
}

// Claim is what one has said.
type Claim struct {
	// Made is whether there was one at all, and Age how long ago.
	Made bool
	Age  time.Duration
	// Kills is whether a kill has begun: what was frozen then must never run again.
	Kills bool
}

// lookAgain is how often a standby looks: somebody may have thawed what it waits for.
const lookAgain = 2 * time.Second

// lastGrace is less than the grace of the Pod, which is that of the commit as well.
const lastGrace = 25 * time.Second

// thawAgain is when it tries once more to thaw what it could not.
const thawAgain = 5 * time.Second

// Standby keeps a container there, beside the one that commits, for as long as somebody may want to
// start a kill in it: a Pod that is started when it is wanted takes most of a second to come. It ends
// when nothing that the commit left frozen is frozen any more.
//
// It is also who is there when nobody comes: a server that is away for longer than ThawAfter leaves no
// Pod frozen. So that nobody ends a Pod for its good commit which has run on since, either is sure of
// the other: who has claimed it has ThawAfter from then on, and once it is being killed nothing is
// thawed. A commit that has failed thaws by itself; where it could not, because it was killed, that is
// done here at once.
func Standby(ctx context.Context, node Node, o StandbyOptions, report func(result.Result) error) error {
	thawed := true
	err := recovered(func() (err error) { thawed, err = standBy(ctx, node, o); return err }, o.Log)
	var reasoned *result.Error
	switch {
	case err == nil:
		o.Log.Info("nothing is frozen any more")
		return report(result.Result{Thawed: true})
	case errors.As(err, &reasoned) && (reasoned.Reason == result.Canceled || reasoned.Reason == result.ThawedUnattended):
		// That nobody needs a kill is no failure.
		o.Log.Info("no longer there for a kill", "because", err)
		return report(result.Result{Error: result.From(err), Thawed: thawed})
	default:
		o.Log.Error("failed", "error", err)
		return errors.Join(err, report(result.Result{Error: result.From(err)}))
	}
}

func standBy(ctx context.Context, node Node, o StandbyOptions) (thawed bool, err error) {
	if o.LookAgain == 0 {
		o.LookAgain = lookAgain
	}
	failed, err := commitEnd(ctx, node, o)
	if err != nil && ctx.Err() != nil {
		// The commit is told to end as well, and thaws. Should it be killed instead, nobody else is there.
		if o.Grace == 0 {
			o.Grace = lastGrace
		}
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.Grace)
		defer cancel()
		if ended, missed := commitEnd(last, node, o); missed == nil && ended {
			ctx, failed, err = last, true, nil
		}
	}
	if err != nil {
		return false, err
	}
	if failed {
		if thawed, err = thawLeft(ctx, node, o); err != nil {
			return thawed, err
		}
		return true, result.Errorf(result.Canceled, "the commit has failed")
	}
	if o.CommitThaws {
		return true, nil
	}
	o.Log.Info("the commit has ended", "podUID", o.PodUID)
	for until := time.Now().Add(o.ThawAfter); ; {
		frozen, runs, err := leftFrozen(ctx, node, o)
		switch {
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case err != nil:
			o.Log.Warn("looking again for what is frozen", "because", err) // containerd may be restarting
		case len(frozen) == 0 && runs != "":
			return true, result.Errorf(result.ThawedUnattended, "%s, which the commit left frozen, runs again: somebody has thawed it on the node", runs)
		case len(frozen) == 0:
			return true, nil
		}
		if time.Until(until) > 0 {
			awaitChange(ctx, frozen, min(o.LookAgain, time.Until(until)))
			continue
		}
		last, reopen, err := o.Claims.Close()
		switch {
		case err != nil:
			return false, err
		case last.Kills:
			return false, result.Errorf(result.Canceled, "what the commit left frozen is being killed, and is there still after %s", o.ThawAfter)
		case last.Made && last.Age < o.ThawAfter:
			until = time.Now().Add(o.ThawAfter - last.Age)
			reopen()
			continue
		}
		if thawed, err = thawLeft(ctx, node, o); err != nil {
			return thawed, err
		}
		return true, result.Errorf(result.ThawedUnattended, "nobody came within %s to remove what the commit had left frozen, so it was thawed on the node and has run on", o.ThawAfter)
	}
}

// commitEnd waits for the end of the commit.
func commitEnd(ctx context.Context, node Node, o StandbyOptions) (failed bool, err error) {
	for {
		failed, err = node.Ended(ctx, o.OwnPodUID, o.Commit)
		if ctx.Err() != nil {
			return false, fmt.Errorf("%w while the commit ran", context.Cause(ctx))
		}
		if err == nil {
			return failed, nil
		}
		o.Log.Warn("asking again how the commit goes", "because", err)
		awaitChange(ctx, nil, o.LookAgain)
	}
}

// leftFrozen is what is frozen of the Pod; where nothing is, runs names a container that was committed
// and runs.
func leftFrozen(ctx context.Context, node Node, o StandbyOptions) (frozen []task, runs string, err error) {
	for _, ref := range o.Containers {
		container, err := node.Find(ctx, o.PodUID, ref)
		var reasoned *result.Error
		if errors.As(err, &reasoned) && reasoned.Reason == result.ContainerNotFound {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		state, err := container.State(ctx)
		switch {
		case err != nil:
			return nil, "", err
		case state == runtime.Paused || state == runtime.Pausing:
			frozen = append(frozen, container)
		case state == runtime.Running:
			runs = container.String()
		}
	}
	if len(frozen) > 0 {
		return frozen, "", nil
	}
	all, err := everything(ctx, node, o.PodUID)
	if err != nil {
		return nil, "", err
	}
	for _, t := range all {
		state, err := t.State(ctx)
		if err != nil {
			return nil, "", err
		}
		if state == runtime.Paused || state == runtime.Pausing {
			frozen = append(frozen, t)
		}
	}
	return frozen, runs, nil
}

// awaitChange returns when the first of what is frozen has ended, and after a while in any case.
func awaitChange(ctx context.Context, frozen []task, after time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, after)
	defer cancel()
	if len(frozen) > 0 {
		if container, is := frozen[0].(Container); is && container.AwaitEnd(ctx) == nil {
			return
		}
	}
	<-ctx.Done()
}

// thawLeft thaws whatever of the Pod is frozen, and does not give up: nobody else is there to do it.
func thawLeft(ctx context.Context, node Node, o StandbyOptions) (thawed bool, err error) {
	for {
		err = Thaw(ctx, node, ThawOptions{PodUID: o.PodUID, Containers: o.Containers, Log: o.Log}, func(r result.Result) error { thawed = r.Thawed; return nil })
		if err == nil && thawed {
			return true, nil
		}
		o.Log.Error("not everything is thawed; trying again", "error", err)
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("%w while thawing what the commit left frozen (%w)", context.Cause(ctx), err)
		case <-time.After(thawAgain):
		}
	}
}
