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
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	testingclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// logOf is the log of one container.
type logOf struct {
	text string
	err  error
	read int
}

func (l *logOf) Log(_ context.Context, pod types.NamespacedName, container string, lines, most int64) ([]byte, error) {
	l.read++
	if pod.Name != "commit" || container != containerName || lines < 100 || most < 1<<20 {
		return nil, fmt.Errorf("%d lines, %d bytes of %s of Pod %s", lines, most, container, pod)
	}
	return []byte(l.text), l.err
}

// A report that no termination message holds is read from the log, for as long as that can be hoped for.
func TestWhole(t *testing.T) {
	many := result.Result{FrozenMillis: 12}
	for i := range 200 {
		many.Containers = append(many.Containers, result.Container{Name: fmt.Sprintf("c%d", i), Image: strings.Repeat("i", 90), Digest: fmt.Sprintf("sha256:%064d", i)})
	}
	report, err := many.Report()
	if err != nil || len(report.Line) == 0 {
		t.Fatalf("%d bytes for the log, %v", len(report.Line), err)
	}
	inMessage, err := result.Decode(report.Message)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := map[string]struct {
		result result.Result
		log    logOf
		since  time.Duration

		containers, reads int
		failed            string // the message
		again             bool
	}{
		"in the message":           {result: result.Result{Thawed: true}},
		"in the log":               {result: inMessage, log: logOf{text: "before\n" + string(report.Line) + "\nafter\n"}, containers: 200, reads: 1},
		"the kubelet is away":      {result: inMessage, log: logOf{err: errors.New("no route")}, since: 10 * time.Second, reads: 1, again: true},
		"the kubelet stays away":   {result: inMessage, log: logOf{err: errors.New("no route")}, since: time.Minute, reads: 1, failed: "no route"},
		"the log has not come yet": {result: inMessage, log: logOf{text: "before\n"}, reads: 1, again: true},
		"the log has been cut":     {result: inMessage, log: logOf{text: string(report.Line[:1000])}, since: time.Minute, reads: 1, failed: "none of the last 1000 bytes"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := &Runner{Logs: &test.log, Clock: testingclock.NewFakePassiveClock(now)}
			got, err := r.whole(t.Context(), Outcome{State: Succeeded, Result: test.result, Pod: client.ObjectKey{Name: "commit"}, Ended: now.Add(-test.since)})
			if (err != nil) != test.again || len(got.Result.Containers) != test.containers || test.log.read != test.reads {
				t.Errorf("%d containers, %d reads, error %v", len(got.Result.Containers), test.log.read, err)
			}
			if failed := got.State == Failed; failed != (test.failed != "") || failed && (got.Reason != v1alpha1.ReasonResultMissing || !strings.Contains(got.Message, test.failed)) {
				t.Errorf("%v %s: %s", got.State, got.Reason, got.Message)
			}
		})
	}
}

// What a Job holds for each container stays far below what the API and the kernel take.
func TestAJobOfVeryManyContainers(t *testing.T) {
	source := &Source{PodName: "demo", PodUID: "pod-1", NodeName: "node-1"}
	for i := range 300 {
		name := fmt.Sprintf("%s%03d", strings.Repeat("c", 60), i)
		source.Containers = append(source.Containers, v1alpha1.ContainerSnapshot{
			ContainerName: name, ContainerID: strings.Repeat("0", 64),
			ImageURI: "registry.example.com/" + strings.Repeat("n", 63) + "/" + strings.Repeat("s", 63) + "-" + name + ":snap-gen1-01234567",
		})
	}
	job := config().Commit(&v1alpha1.SandboxSnapshot{}, source, true)
	annotations, arguments := 0, 0
	for key, value := range job.Annotations {
		annotations += len(key) + len(value)
	}
	for _, arg := range job.Spec.Template.Spec.Containers[0].Args {
		arguments += len(arg) + 1
	}
	// k8s.io/apimachinery/pkg/api/validation.TotalAnnotationSizeLimitB; a quarter of the kernel's smallest stack
	// limit, which all arguments have to fit in, is 2 MiB.
	if annotations > 256<<10 || arguments > 1<<20 {
		t.Errorf("%d bytes of annotations, %d of arguments", annotations, arguments)
	}
}
