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
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

// in: the snapshot is in that phase, under way since the epoch.
func in(phase v1alpha1.SandboxSnapshotPhase) func(*v1alpha1.SandboxSnapshot) {
	return func(s *v1alpha1.SandboxSnapshot) {
		committed(s)
		s.Status.Phase, s.Status.StartTime = phase, &metav1.Time{Time: epoch}
		s.Status.Containers[0].ImageURI = mainImage
		s.Status.ObservedGeneration = s.Generation
	}
}

func ready(reason string) func(*v1alpha1.SandboxSnapshot) {
	return func(s *v1alpha1.SandboxSnapshot) {
		meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason})
	}
}

func failing(s *v1alpha1.SandboxSnapshot) {
	ready(v1alpha1.ReasonThawing)(s)
	meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionFailed, Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonCommitJobFailed, Message: "why"})
}

func goes(s *v1alpha1.SandboxSnapshot) { s.DeletionTimestamp = &metav1.Time{Time: epoch} }

// TestDecide is the table of the three machines.
func TestDecide(t *testing.T) {
	found := func(sandbox *v1alpha1.Sandbox) *foundSandbox { return &foundSandbox{sandbox} }
	none, job := &foundJob{}, &foundJob{(&commitjob.Config{}).Commit(attemptOf("demo"), &commitjob.Source{PodUID: "demo-pod"}, true)}
	edited := &foundJob{&batchv1.Job{}}
	slot, noSlot := &slotAnswer{held: true}, &slotAnswer{why: "2 commits run"}
	source, refused := &foundSource{source: &commitjob.Source{PodUID: "demo-pod"}}, &foundSource{refusal: refuse(v1alpha1.ReasonNoContainers, "none")}
	active := func(started bool, message string) *commitjob.Outcome {
		return &commitjob.Outcome{State: commitjob.Active, Started: started, Message: message}
	}
	const (
		thawing = "Committing Ready=False/Thawing Failed=Unknown/"
		failed  = "Failed Ready=False/"
	)
	away, no := errors.New("connection refused"), apierrors.NewForbidden(batchv1.Resource("jobs"), "x", nil)
	for name, test := range map[string]struct {
		sees observed
		do   verb
		// status is what is written, rest how long the visit rests after it.
		status string
		rest   time.Duration
	}{
		// The commit, before it begins.
		"pending":                           {observed{snapshot: attemptOf("demo")}, readSandbox, "", 0},
		"pending: its sandbox is known":     {observed{snapshot: attemptOf("demo"), sandbox: found(pausing("demo"))}, findJob, "", 0},
		"pending: in the queue":             {observed{snapshot: attemptOf("demo", waiting), sandbox: found(pausing("demo")), queued: true}, wait, "", queueBackstop},
		"pending: in the queue, cancelled":  {observed{snapshot: attemptOf("demo", waiting), sandbox: found(pausing("demo", canceling)), queued: true, job: none}, writeStatus, failed + "Canceled Failed=True/Canceled", 0},
		"pending: in the queue, Pod ends":   {observed{snapshot: attemptOf("demo", waiting), sandbox: found(pausing("demo")), queued: true, podEnds: true}, checkSource, "", 0},
		"pending: in the queue, untold":     {observed{snapshot: attemptOf("demo"), sandbox: found(pausing("demo")), queued: true}, findJob, "", 0},
		"pending: no Job":                   {observed{snapshot: attemptOf("demo"), sandbox: found(pausing("demo")), job: none}, takeSlot, "", 0},
		"pending: no slot":                  {observed{snapshot: attemptOf("demo"), sandbox: found(pausing("demo")), job: none, slot: noSlot}, writeStatus, "Pending Ready=False/Queued", queueBackstop},
		"pending: a slot":                   {observed{snapshot: attemptOf("demo"), sandbox: found(pausing("demo")), job: none, slot: slot}, checkSource, "", 0},
		"pending: refused":                  {observed{snapshot: attemptOf("demo"), sandbox: found(pausing("demo")), job: none, slot: slot, source: refused}, writeStatus, failed + "NoContainers Failed=True/NoContainers", 0},
		"pending: all is well":              {observed{snapshot: attemptOf("demo"), sandbox: found(pausing("demo")), job: none, slot: slot, source: source}, createJob, "", 0},
		"pending: its Job is there":         {observed{snapshot: attemptOf("demo"), sandbox: found(pausing("demo")), job: job}, writeStatus, "Committing Ready=False/Committing", backstop},
		"pending: its Job is there, unread": {observed{snapshot: attemptOf("demo"), sandbox: found(pausing("demo")), job: edited, source: source}, writeStatus, thawing + "CommitJobFailed", 0},
		"pending: no sandbox":               {observed{snapshot: attemptOf("demo"), sandbox: &foundSandbox{}, job: none}, writeStatus, failed + "SandboxNotFound Failed=True/SandboxNotFound", 0},
		"pending: an API is away": {observed{snapshot: attemptOf("demo"), trouble: &trouble{checkSource, away}, past: troubles{since: epoch, until: epoch.Add(time.Second)}},
			writeStatus, "Pending Ready=False/HeldUp", time.Second},
		"pending: an API is away for long": {observed{snapshot: attemptOf("demo"), trouble: &trouble{checkSource, away}, past: troubles{since: epoch.Add(-patience)}},
			writeStatus, failed + "HeldUp Failed=True/HeldUp", 0},
		"pending: the Job is refused": {observed{snapshot: attemptOf("demo"), trouble: &trouble{createJob, &notCreated{no}}, past: troubles{since: epoch}},
			writeStatus, failed + "CommitPodRejected Failed=True/CommitPodRejected", 0},
		"pending: the next try is not due": {observed{snapshot: attemptOf("demo"), sandbox: found(pausing("demo")), job: none, past: troubles{since: epoch, until: epoch.Add(time.Second), last: "x"}}, writeStatus, heldUp, time.Second},
		"pending: a Job may still appear": {observed{snapshot: attemptOf("demo"), sandbox: found(pausing("demo")), job: none, past: troubles{since: epoch.Add(-patience), created: epoch}},
			wait, "", lateness},
		"pending: a Job that has not appeared": {observed{snapshot: attemptOf("demo"), sandbox: found(pausing("demo")), job: none, past: troubles{since: epoch.Add(-time.Hour), created: epoch.Add(-lateness)}},
			writeStatus, failed + "HeldUp Failed=True/HeldUp", 0},

		// A user's.
		"a user's: being paused":        {observed{snapshot: snapshotOf("demo", "mine"), sandbox: found(pausing("demo")), job: none}, writeStatus, "Pending Ready=False/Queued", backstop},
		"a user's: checked":             {observed{snapshot: snapshotOf("demo", "mine"), sandbox: found(pausing("demo", running)), job: none, slot: slot, source: source}, readSandbox, "", 0},
		"a user's: checked, the same":   {observed{snapshot: snapshotOf("demo", "mine"), sandbox: found(pausing("demo", running)), job: none, slot: slot, source: source, again: true}, createJob, "", 0},
		"a user's: checked, paused now": {observed{snapshot: snapshotOf("demo", "mine"), sandbox: found(pausing("demo", paused)), job: none, slot: slot, source: source, again: true}, giveSlot, "", 0},

		// The commit, under way.
		"committing":              {observed{snapshot: attemptOf("demo", in("Committing")), sandbox: found(pausing("demo"))}, observeCommit, "", 0},
		"committing: cancelled":   {observed{snapshot: attemptOf("demo", in("Committing")), sandbox: found(pausing("demo", canceling))}, writeStatus, thawing + "Canceled", 0},
		"committing: it runs":     {observed{snapshot: attemptOf("demo", in("Committing")), sandbox: found(pausing("demo")), commit: active(true, "")}, wait, "", backstop},
		"committing: it waits":    {observed{snapshot: attemptOf("demo", in("Committing")), sandbox: found(pausing("demo")), commit: active(false, "Too many pods")}, writeStatus, "Committing Ready=False/HeldUp", backstop},
		"committing: it begins":   {observed{snapshot: attemptOf("demo", in("Committing"), ready("HeldUp")), sandbox: found(pausing("demo")), commit: active(true, "")}, writeStatus, "Committing Ready=False/Committing", backstop},
		"committing: never began": {observed{snapshot: attemptOf("demo", in("Committing")), sandbox: found(pausing("demo")), commit: active(false, ""), now: epoch.Add(startLimit)}, writeStatus, thawing + "HeldUp", 0},
		"committing: refused its Pod": {observed{snapshot: attemptOf("demo", in("Committing")), sandbox: found(pausing("demo")), commit: &commitjob.Outcome{Refused: true}},
			writeStatus, "Committing Ready=False/CommitPodRejected", refusedLimit},
		"committing: done": {observed{snapshot: attemptOf("demo", in("Committing")), sandbox: found(pausing("demo")), commit: &commitjob.Outcome{State: commitjob.Succeeded,
			Result: result.Result{Containers: []result.Container{{Name: "main", Image: mainImage, Digest: "sha256:a"}}}}}, writeStatus, "Succeed Ready=True/Succeeded Failed=False/Succeeded", 0},
		"committing: done without a result": {observed{snapshot: attemptOf("demo", in("Committing")), sandbox: found(pausing("demo")), commit: &commitjob.Outcome{State: commitjob.Succeeded}}, writeStatus, thawing + "ResultMissing", 0},
		"committing: failed":                {observed{snapshot: attemptOf("demo", in("Committing")), sandbox: found(pausing("demo")), commit: &commitjob.Outcome{State: commitjob.Failed, Reason: "X"}}, writeStatus, thawing + "X", 0},
		"committing: failed and thawed": {observed{snapshot: attemptOf("demo", in("Committing")), sandbox: found(pausing("demo")), commit: &commitjob.Outcome{State: commitjob.Failed, Reason: "X", Thawed: true}},
			writeStatus, failed + "X Failed=True/X", 0},
		"committing: cannot be seen": {observed{snapshot: attemptOf("demo", in("Committing")), trouble: &trouble{observeCommit, away}, past: troubles{since: epoch.Add(-time.Hour), until: epoch.Add(time.Second)}},
			writeStatus, "Committing Ready=False/HeldUp", time.Second},

		// Its bad end.
		"ending":                  {observed{snapshot: attemptOf("demo", in("Committing"), failing)}, observeCommit, "", 0},
		"ending: it runs":         {observed{snapshot: attemptOf("demo", in("Committing"), failing), commit: active(true, "")}, stopJob, "", 0},
		"ending: it is stopped":   {observed{snapshot: attemptOf("demo", in("Committing"), failing), commit: active(true, ""), stopped: &stopped{}}, wait, "", backstop},
		"ending: it never ran":    {observed{snapshot: attemptOf("demo", in("Committing"), failing), commit: active(false, ""), stopped: &stopped{neverRan: true}}, writeStatus, failed + "CommitJobFailed Failed=True/CommitJobFailed", 0},
		"ending: it is over":      {observed{snapshot: attemptOf("demo", in("Committing"), failing), commit: &commitjob.Outcome{State: commitjob.Failed}}, thawPod, "", 0},
		"ending: a thaw is going": {observed{snapshot: attemptOf("demo", in("Committing"), failing), commit: &commitjob.Outcome{State: commitjob.Failed}, thaw: &thawed{}}, wait, "", backstop},
		"ending: all is thawed":   {observed{snapshot: attemptOf("demo", in("Committing"), failing), commit: &commitjob.Outcome{State: commitjob.Failed}, thaw: &thawed{done: true}}, writeStatus, failed + "CommitJobFailed Failed=True/CommitJobFailed", 0},
		"ending: an API is away": {observed{snapshot: attemptOf("demo", in("Committing"), failing), trouble: &trouble{thawPod, away}, past: troubles{since: epoch.Add(-time.Hour), until: epoch.Add(time.Second)}},
			writeStatus, thawing + "CommitJobFailed", time.Second},

		// The copy.
		"a copy":                  {observed{snapshot: snapshotOf("demo", "mine"), sandbox: found(pausing("demo", paused)), job: none}, checkCopy, "", 0},
		"a copy: it is told":      {observed{snapshot: snapshotOf("demo", "mine"), sandbox: found(pausing("demo", paused)), job: none, from: &foundSource{copied: attemptOf("demo", saved), source: &commitjob.Source{}}}, writeStatus, "Pending Ready=False/Copying", 0},
		"a copy: the next image":  {observed{snapshot: snapshotOf("demo", "mine", in("Pending"), ready("Copying")), sandbox: found(pausing("demo", paused)), job: none, from: &foundSource{copied: attemptOf("demo", saved)}}, copyImage, "", 0},
		"a copy: the last image":  {observed{snapshot: snapshotOf("demo", "mine", in("Pending"), ready("Copying")), sandbox: found(pausing("demo", paused)), job: none, from: &foundSource{copied: attemptOf("demo", saved)}, copied: &copiedImage{digest: "sha256:a"}}, writeStatus, "Succeed Ready=True/Succeeded Failed=False/Succeeded", 0},
		"a copy: no image":        {observed{snapshot: snapshotOf("demo", "mine", in("Pending"), ready("Copying")), sandbox: found(pausing("demo", paused)), job: none, from: &foundSource{copied: attemptOf("demo", saved)}, copied: &copiedImage{refusal: refuse("X", "no")}}, writeStatus, failed + "X Failed=True/X", 0},
		"a copy: its source goes": {observed{snapshot: snapshotOf("demo", "mine"), sandbox: found(pausing("demo", paused)), job: none, from: &foundSource{refusal: refuse("X", "no")}}, writeStatus, failed + "X Failed=True/X", 0},

		// The deletion.
		"deleted":                       {observed{snapshot: attemptOf("demo", goes)}, readUser, "", 0},
		"deleted: in use":               {observed{snapshot: attemptOf("demo", in("Succeed"), goes), user: ptr.To("demo")}, writeStatus, "Succeed Ready=True/InUse", backstop},
		"deleted: pending":              {observed{snapshot: attemptOf("demo", goes), user: ptr.To("")}, findJob, "", 0},
		"deleted: pending, with a Job":  {observed{snapshot: attemptOf("demo", goes), user: ptr.To(""), job: job}, writeStatus, "Committing Ready=False/Committing", 0},
		"deleted: pending, without":     {observed{snapshot: attemptOf("demo", goes), user: ptr.To(""), job: none}, cleanJobs, "", 0},
		"deleted: committing":           {observed{snapshot: attemptOf("demo", in("Committing"), goes), user: ptr.To("")}, writeStatus, thawing + "Canceled", 0},
		"deleted: frozen":               {observed{snapshot: attemptOf("demo", in("Succeed"), goes), user: ptr.To(""), sandbox: found(pausing("demo"))}, warnSandbox, "", 0},
		"deleted: frozen, cancelled":    {observed{snapshot: attemptOf("demo", in("Succeed"), goes), user: ptr.To(""), sandbox: found(pausing("demo", canceling))}, thawPod, "", 0},
		"deleted: frozen, sandbox goes": {observed{snapshot: attemptOf("demo", in("Succeed"), goes), user: ptr.To(""), sandbox: found(pausing("demo", leaving))}, thawPod, "", 0},
		"deleted: frozen, all gone":     {observed{snapshot: attemptOf("demo", in("Succeed"), goes), user: ptr.To(""), sandbox: &foundSandbox{}}, readPod, "", 0},
		"deleted: thawed":               {observed{snapshot: attemptOf("demo", in("Succeed"), goes), user: ptr.To(""), sandbox: found(pausing("demo", canceling)), thaw: &thawed{done: true}}, writeStatus, "Succeed Ready=False/Canceled", 0},
		"deleted: an old one":           {observed{snapshot: attemptOf("demo", in("Succeed"), goes), user: ptr.To(""), sandbox: found(pausing("demo", running))}, cleanJobs, "", 0},
		"deleted: Jobs are left":        {observed{snapshot: attemptOf("demo", in("Failed"), goes), user: ptr.To(""), cleaned: ptr.To(false)}, wait, "", backstop},
		"deleted: no Jobs are left":     {observed{snapshot: attemptOf("demo", in("Failed"), goes), user: ptr.To(""), cleaned: ptr.To(true)}, deleteImages, "", 0},
		"deleted: images are left":      {observed{snapshot: attemptOf("demo", in("Failed"), goes), user: ptr.To(""), cleaned: ptr.To(true), images: &deletedImages{again: time.Second, why: away}}, writeStatus, "Failed Ready=False/ImageDeletionFailed", time.Second},
		"deleted: all is done":          {observed{snapshot: attemptOf("demo", in("Failed"), goes), user: ptr.To(""), cleaned: ptr.To(true), images: &deletedImages{}}, letGo, "", 0},
		"deleted: an API is away": {observed{snapshot: attemptOf("demo", in("Failed"), goes), trouble: &trouble{cleanJobs, away}, past: troubles{since: epoch.Add(-time.Hour), until: epoch.Add(time.Second)}},
			writeStatus, "Failed Ready=False/HeldUp", time.Second},

		"succeeded": {observed{snapshot: attemptOf("demo", in("Succeed"))}, wait, "", 0},
		"failed":    {observed{snapshot: attemptOf("demo", in("Failed"))}, wait, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			if test.sees.now.IsZero() {
				test.sees.now = epoch
			}
			before := test.sees.snapshot.DeepCopy()
			next := decide(test.sees)
			if next.do != test.do || next.after != test.rest {
				t.Fatalf("it is to %s and to rest for %s, want to %s and %s", next.do, next.after, test.do, test.rest)
			}
			if test.do == writeStatus {
				if got := summary(&v1alpha1.SandboxSnapshot{Status: *next.status}); got != test.status {
					t.Errorf("it writes\n     %s\nwant %s", got, test.status)
				}
			}
			if !equal(before, test.sees.snapshot) {
				t.Error("the decision has changed what it was made of")
			}
		})
	}
}

func equal(a, b *v1alpha1.SandboxSnapshot) bool { return apiequality.Semantic.DeepEqual(a, b) }
