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
	// Within is how long after the end of the commit what it left frozen has to end.
	Within time.Duration
	Log    *slog.Logger
}

// Standby keeps a container there, beside the one that commits, for as long as somebody may want to
// start a kill in it: a Pod that is started when it is wanted takes most of a second to come. By
// itself it touches nothing. It ends when the commit has failed, and else when nothing that it left
// frozen is there any more, which is its success.
func Standby(ctx context.Context, node Node, o StandbyOptions, report func(result.Result) error) error {
	err := recovered(func() error { return standBy(ctx, node, o) }, o.Log)
	var reasoned *result.Error
	switch {
	case err == nil:
		o.Log.Info("nothing is frozen any more")
		return report(result.Result{Thawed: true})
	case errors.As(err, &reasoned) && reasoned.Reason == result.Canceled:
		// That nobody needs a kill is no failure.
		o.Log.Info("no longer there for a kill", "because", err)
		return report(result.Result{Error: result.From(err)})
	default:
		o.Log.Error("failed", "error", err)
		return errors.Join(err, report(result.Result{Error: result.From(err)}))
	}
}

func standBy(ctx context.Context, node Node, o StandbyOptions) error {
	failed, err := node.Ended(ctx, o.OwnPodUID, o.Commit)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%w while the commit ran", context.Cause(ctx))
	case err != nil:
		return err
	case failed:
		// It has thawed what it froze, or somebody else does where it has crashed.
		return result.Errorf(result.Canceled, "the commit has failed")
	}
	o.Log.Info("the commit has ended", "podUID", o.PodUID)
	ctx, cancel := context.WithTimeoutCause(ctx, o.Within, result.Errorf(result.Canceled, "what the commit left frozen was not killed within %s", o.Within))
	defer cancel()
	for _, ref := range o.Containers {
		container, _, err := frozen(ctx, node, o.PodUID, ref, o.Log)
		if err == nil && container != nil {
			err = container.AwaitEnd(ctx)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
