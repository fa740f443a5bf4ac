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
	"runtime/debug"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// guard runs work, and when that fails or panics, thaws what the freezer
// touched and reports the failure.
func guard(ctx context.Context, f *freezer, log *slog.Logger, work func() error, report func(result.Result) error) error {
	err := recovered(work, log)
	if err == nil {
		return nil
	}
	thawErr := f.thawAll(ctx)
	failure := result.Result{Thawed: thawErr == nil && !f.isBlind()}
	if thawErr != nil {
		err = fmt.Errorf("%w; %w", err, thawErr)
	}
	failure.FrozenMillis = f.frozenMillis()
	failure.Error = result.From(err)
	log.Error("failed", "reason", string(failure.Error.Reason), "error", err, "thawed", failure.Thawed, "frozenMillis", failure.FrozenMillis)
	return errors.Join(err, report(failure))
}

// errPanicked is what came of something that is not to be tried again.
var errPanicked = errors.New("image-committer panicked")

func recovered(work func() error, log *slog.Logger) (err error) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("panic", "value", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("%w: %v", errPanicked, p)
		}
	}()
	return work()
}
