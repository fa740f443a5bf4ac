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
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// beside is the Pod of a commit that has ended, and beside which the container for a kill is in a state.
func beside(state corev1.ContainerState, options ...func(*corev1.Pod)) *corev1.Pod {
	pod := podIn("job-1", corev1.PodRunning, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}})
	pod.Labels = map[string]string{v1alpha1.LabelComponent: ComponentCommit, v1alpha1.LabelSnapshotUID: "snapshot-1"}
	pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{Name: killName, State: state})
	for _, option := range options {
		option(&pod)
	}
	return &pod
}

func deleted(pod *corev1.Pod) {
	pod.DeletionTimestamp, pod.Finalizers = ptr.To(metav1.Now()), []string{"example.com/kubelet"}
}

func ofAnother(pod *corev1.Pod) { pod.OwnerReferences[0].UID = "job-2" }

func in(phase corev1.PodPhase) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Status.Phase = phase }
}

func ended(code int32, report string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Error", Message: report}}
}

var (
	waits  = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	starts = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}
)

type indexes struct{ *fake.ClientBuilder }

func (i *indexes) IndexField(_ context.Context, object client.Object, field string, values client.IndexerFunc) error {
	i.WithIndex(object, field, values)
	return nil
}

// runnerWith has the Pods in its cluster, which answers fault where that is not nil.
func runnerWith(t *testing.T, fault error, pods ...*corev1.Pod) *Runner {
	t.Helper()
	cluster := &indexes{fake.NewClientBuilder()}
	if err := AddIndexes(t.Context(), cluster); err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods {
		cluster.WithObjects(pod)
	}
	built := cluster.WithInterceptorFuncs(interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
		if fault != nil {
			return fault
		}
		return c.List(ctx, list, options...)
	}}).Build()
	return &Runner{Config: *config(), Client: built, Live: built}
}

func committedSnapshot() *v1alpha1.SandboxSnapshot {
	snapshot := snapshotNamed("demo-gen1")
	snapshot.Status.JobUID, snapshot.Status.SourcePodUID, snapshot.Status.Containers = "job-1", "pod-1", demoSource().Containers
	return snapshot
}

func TestStandby(t *testing.T) {
	tests := map[string]struct {
		pod  *corev1.Pod
		want State
		says string
	}{
		"waits":                          {beside(waits), Active, ""},
		"has not started yet":            {beside(starts), Active, ""},
		"has given up":                   {beside(ended(0, `{"error":{"reason":"Canceled","message":"what the commit left frozen was not killed"}}`)), Failed, "was not killed"},
		"has crashed":                    {beside(ended(137, "")), Failed, "exit code 137"},
		"its Pod is being deleted":       {beside(waits, deleted), Failed, "is being deleted"},
		"its Pod was evicted":            {beside(corev1.ContainerState{}, in(corev1.PodFailed)), Failed, "Evicted"},
		"its Pod is another Job's":       {beside(waits, ofAnother), Failed, "is gone"},
		"its Pod is gone":                {nil, Failed, "is gone"},
		"nothing is frozen":              {beside(ended(0, `{"thawed":true}`)), Succeeded, ""},
		"nothing is frozen, and it goes": {beside(ended(0, `{"thawed":true}`), deleted), Succeeded, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var pods []*corev1.Pod
			if test.pod != nil {
				pods = append(pods, test.pod)
			}
			outcome, err := runnerWith(t, nil, pods...).Standby(t.Context(), committedSnapshot())
			if err != nil {
				t.Fatal(err)
			}
			if outcome.State != test.want || !strings.Contains(outcome.Message, test.says) {
				t.Errorf("%+v; want state %d, message %q", outcome, test.want, test.says)
			}
		})
	}
	if _, err := runnerWith(t, errors.New("connection refused")).Standby(t.Context(), committedSnapshot()); err == nil {
		t.Error("that it is not known is taken for something")
	}
}

// executor answers for one program, and notes what it is to run.
type executor struct {
	said string
	err  error
	// hangs until it is told to end.
	hangs bool

	pod       types.NamespacedName
	container string
	command   []string
	left      time.Duration
}

func (e *executor) Exec(ctx context.Context, pod types.NamespacedName, container string, command []string) (string, string, error) {
	e.pod, e.container, e.command = pod, container, command
	if deadline, ok := ctx.Deadline(); ok {
		e.left = time.Until(deadline)
	}
	if e.hangs {
		<-ctx.Done()
		return "", "", context.Cause(ctx)
	}
	return e.said, "level=INFO msg=done", e.err
}

func TestKill(t *testing.T) {
	const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	bare := []string{
		"/image-committer", "kill", "--termination-log=-", "--lock=/dev/termination-log", "--timeout=8s",
		"--containerd-address=/run/containerd/containerd.sock", "--cgroup-root=/host/sys/fs/cgroup", "--pod-uid=pod-1", "--container=name=main,id=c1", "--container=name=side,id=c2",
	}
	caches := append(slices.Clone(bare), "--resume-cache=1000", "--containerd-root=/var/lib/containerd", "--sandbox-uid=sandbox-1", "--snapshot-uid=snapshot-1",
		"--keep=main=registry.example.com/default/demo-main@"+digest)
	exits := errors.New("command terminated with exit code 1")
	tests := map[string]struct {
		pod   *corev1.Pod
		fault error
		exec  executor
		cache int64
		// says is why it failed; empty: it has killed.
		says    string
		command []string
	}{
		"all that is frozen":            {pod: beside(waits), exec: executor{said: `{"thawed":true}` + "\n"}, command: bare},
		"and keeps what a resume wants": {pod: beside(waits), exec: executor{said: `{"thawed":true}` + "\n"}, cache: 1000, command: caches},
		"not all":                       {pod: beside(waits), exec: executor{said: `{"error":{"reason":"CommitJobFailed","message":"it does not end"}}`, err: exits}, says: "it does not end", command: bare},
		"not, as the API forbids it":    {pod: beside(waits), exec: executor{err: errors.New("no kills here")}, says: "no kills here", command: bare},
		"not, as it is cut off":         {pod: beside(waits), exec: executor{said: `{"tha`, err: errors.New("unexpected EOF")}, says: "unexpected EOF", command: bare},
		"and crashes in the end":        {pod: beside(waits), exec: executor{said: `{"thawed":true}`, err: exits}, command: bare},
		"and crashes before":            {pod: beside(waits), exec: executor{err: exits}, says: "exit code 1", command: bare},
		"and says nothing":              {pod: beside(waits), says: "no readable report", command: bare},
		"and says something else":       {pod: beside(waits), exec: executor{said: `{}`}, says: "does not say", command: bare},
		"not, for reasons on a page":    {pod: beside(waits), exec: executor{err: errors.New(strings.Repeat("ä", 4000))}, says: "ää…", command: bare},
		"nobody, as the Pod is gone":    {says: "is gone"},
		"nobody, as it is another's":    {pod: beside(waits, ofAnother), says: "is gone"},
		"nobody, as it is not known":    {pod: beside(waits), fault: errors.New("connection refused"), says: "connection refused"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var pods []*corev1.Pod
			if test.pod != nil {
				pods = append(pods, test.pod)
			}
			r := runnerWith(t, test.fault, pods...)
			r.ResumeCache, r.Exec = test.cache, &test.exec
			snapshot := committedSnapshot()
			snapshot.Status.Containers[0].ImageDigest = digest // of the other none is known
			outcome := r.Kill(t.Context(), snapshot)
			if killed := test.says == ""; killed != (outcome.State == Succeeded) || killed == (outcome.State == Failed) || !strings.Contains(outcome.Message, test.says) {
				t.Errorf("%+v, want %q", outcome, test.says)
			}
			if len(outcome.Message) > 800 {
				t.Errorf("the message has %d bytes", len(outcome.Message))
			}
			if !slices.Equal(test.exec.command, test.command) {
				t.Errorf("it runs\n     %q\nwant %q", test.exec.command, test.command)
			}
			if test.command == nil {
				return
			}
			if want := client.ObjectKeyFromObject(test.pod); test.exec.pod != want || test.exec.container != "kill" {
				t.Errorf("it runs in container %s of Pod %s", test.exec.container, test.exec.pod)
			}
			if test.exec.left <= killTimeout-time.Second || test.exec.left > killTimeout {
				t.Errorf("it has %s", test.exec.left)
			}
		})
	}
}

// TestAKillIsCutOff when the server ends.
func TestAKillIsCutOff(t *testing.T) {
	r := runnerWith(t, nil, beside(waits))
	r.Exec = &executor{hangs: true}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	began := time.Now()
	if outcome := r.Kill(ctx, committedSnapshot()); outcome.State != Failed || time.Since(began) > killTimeout/2 {
		t.Errorf("after %s: %+v", time.Since(began), outcome)
	}
}

// TestACommitIsReadBesideItsKill whatever that does.
func TestACommitIsReadBesideItsKill(t *testing.T) {
	const report = `{"containers":[{"name":"main","image":"r/demo:t","digest":"sha256:1"}]}`
	for name, test := range map[string]struct {
		commit, kill corev1.ContainerState
		phase        corev1.PodPhase
		want         State
	}{
		"both are at work":             {waits, waits, corev1.PodRunning, Active},
		"the kill starts":              {waits, starts, corev1.PodPending, Active},
		"the kill has crashed":         {waits, ended(137, ""), corev1.PodRunning, Active},
		"committed, the kill waits":    {ended(0, report), waits, corev1.PodRunning, Succeeded},
		"committed, the kill crashed":  {ended(0, report), ended(137, ""), corev1.PodFailed, Succeeded},
		"committed, all is over":       {ended(0, report), ended(0, `{"thawed":true}`), corev1.PodSucceeded, Succeeded},
		"the commit crashed":           {ended(137, ""), waits, corev1.PodRunning, Failed},
		"the commit never started":     {ended(128, ""), ended(0, `{"error":{"reason":"Canceled"}}`), corev1.PodFailed, Failed},
		"neither has a state any more": {corev1.ContainerState{}, corev1.ContainerState{}, corev1.PodFailed, Failed},
	} {
		t.Run(name, func(t *testing.T) {
			pod := beside(test.kill, in(test.phase))
			pod.Status.ContainerStatuses[1].State = test.commit
			if got := Observe("job-1", jobWith("", ""), []corev1.Pod{*pod}, ""); got.State != test.want {
				t.Errorf("observed %+v, want state %d", got, test.want)
			}
		})
	}
}
