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

package commitjob

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// Logs reads the end of a container's log.
type Logs interface {
	Log(ctx context.Context, pod types.NamespacedName, container string, lines, most int64) ([]byte, error)
}

const (
	// A report has some 400 bytes for a container, and a template 64 KiB for all of them. The runtime
	// breaks a line of the log every 16 KiB.
	mostReport      = 4 << 20
	mostReportLines = mostReport / (16 << 10)
	// logTimeout bounds one reading, logPatience all of them: what the commit has frozen stays so meanwhile.
	logTimeout  = 10 * time.Second
	logPatience = 30 * time.Second
)

// whole reads the rest of a report of which the termination message has only the sum. An error is worth
// another try.
func (r *Runner) whole(ctx context.Context, outcome Outcome) (Outcome, error) {
	if outcome.State != Succeeded || outcome.Result.Logged == "" {
		return outcome, nil
	}
	ctx, cancel := context.WithTimeout(ctx, logTimeout)
	defer cancel()
	log, err := r.Logs.Log(ctx, outcome.Pod, containerName, mostReportLines, mostReport)
	if err == nil {
		short := outcome.Result
		if outcome.Result, err = short.FromLog(log); err == nil {
			// What both say, the message says for sure.
			outcome.Result.FrozenMillis, outcome.Result.Thawed = short.FrozenMillis, short.Thawed
			return outcome, nil
		}
		err = fmt.Errorf("the log of container %s of Pod %s: %w", containerName, outcome.Pod, err)
	}
	if r.Clock.Since(outcome.Ended) < logPatience {
		return Outcome{}, err
	}
	return Outcome{
		State: Failed, Reason: v1alpha1.ReasonResultMissing, Thawed: outcome.Thawed,
		Message: fmt.Sprintf("the commit has so many containers that its report is in its log, and that could not be read: %v", err),
	}, nil
}
