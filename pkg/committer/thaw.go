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

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// ThawOptions are the arguments of one thaw.
type ThawOptions struct {
	PodUID     string
	Containers []runtime.Ref
	Log        *slog.Logger
}

// Thaw thaws what a commit left frozen of a Pod, and reports the outcome: the containers that it
// names, the others, and their cgroups. A container that is gone, has ended or runs is as it should
// be; that it runs the kernel has to say, for the runtime knows nothing of a freeze that has failed.
func Thaw(ctx context.Context, node Node, o ThawOptions, report func(result.Result) error) error {
	f := &freezer{log: o.Log}
	return guard(ctx, f, o.Log, func() error {
		all, err := everything(ctx, node, o.PodUID)
		failed := []error{err}
		known := map[string]bool{}
		for _, t := range all {
			if container, ok := t.(Container); ok {
				known[container.ID()] = true
			}
		}
		for _, ref := range o.Containers {
			if known[ref.ID] {
				continue
			}
			container, err := node.Find(ctx, o.PodUID, ref)
			var reasoned *result.Error
			if errors.As(err, &reasoned) && reasoned.Reason == result.ContainerNotFound {
				o.Log.Info("nothing to thaw", "container", ref.Name, "why", err.Error())
				continue
			}
			failed = append(failed, err)
			if err == nil {
				all = append(all, container)
			}
		}
		if err := errors.Join(failed...); err != nil {
			f.lose()
		}
		failed = append(failed, f.takeBack(ctx, all), sideBySide(all, o.Log, func(t task) error {
			if t.Witnessed() {
				// A shim may take for frozen what runs, and refuses every exec then. What it answers where
				// that is not so tells nothing.
				_ = t.Resume(ctx)
			}
			return nil
		}))
		err = errors.Join(failed...)
		if err != nil && ctx.Err() != nil {
			// What was met frozen is thawed now, on a time of its own.
			return fmt.Errorf("%w while thawing", context.Cause(ctx))
		}
		if err != nil {
			return err
		}
		return report(result.Result{Thawed: !f.isBlind()})
	}, report)
}
