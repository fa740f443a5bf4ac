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
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/install"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/validation"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/expiry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/move"
	registry "github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/sandbox"
)

// world is one sandbox with its Pod, its snapshots, and those who act on them.
type world struct {
	t     *testing.T
	seed  uint64
	rand  *rand.Rand
	now   time.Time
	calm  bool // commits succeed, and nobody asks for anything
	past  []string
	count int // of UIDs given

	sandbox *v1alpha1.Sandbox
	pod     *corev1.Pod
	frozen  bool
	// killing is how far the kill is that the last commit left behind.
	killing killing
	// waits is since when the node waits for somebody to come for what is frozen. known is whether the
	// controller knows of that, or of a later time: since. ranOn: the node has thawed it.
	waits, since time.Time
	known, ranOn bool
	// files counts the writes in the Pod's root filesystem, base those that it started with.
	files, base int
	// last is files of the Pod that went last; gaveUp: a person asked for fewer.
	last   int
	gaveUp bool
	// unsaid: files were reset in place and DataLost has not said so yet.
	unsaid bool
	// unnoted: files went while a pause was wanted, and nobody who could know has asked for anything since.
	// unnotedSince is what DataLost said then.
	unnoted      bool
	unnotedSince string
	// made is when the last Pod was made, asked that somebody has asked for something since, which ends all waits.
	made  time.Time
	asked bool
	// resets are what the watch has shown of the last Pod.
	resets []reset

	snapshots map[string]*v1alpha1.SandboxSnapshot
	content   map[string]int // files in a snapshot that succeeded
}

func newWorld(t *testing.T, seed uint64) *world {
	return &world{
		t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 0)), now: epoch,
		sandbox:   sandboxIn(v1alpha1.SandboxPending),
		snapshots: map[string]*v1alpha1.SandboxSnapshot{}, content: map[string]int{},
	}
}

func (w *world) createPod() {
	if w.pod != nil {
		w.fail("creates a second Pod")
	}
	if w.sandbox.Status.PodName == "" {
		w.fail("creates a Pod before its name is written")
	}
	if w.now.Sub(w.made) < firstRetry && !w.asked {
		w.fail("makes a Pod %s after the last one", w.now.Sub(w.made))
	}
	w.made, w.asked = w.now, false
	from := w.sandbox.Status.SnapshotName
	w.base = w.content[from]
	if w.base < w.last && !w.gaveUp && !meta.IsStatusConditionTrue(w.sandbox.Status.Conditions, v1alpha1.ConditionDataLost) {
		w.fail("the Pod comes back with %d of %d writes, and DataLost does not say so", w.base, w.last)
	}
	w.gaveUp = false
	w.files, w.resets = w.base, nil
	w.pod = podOf(pendingPod, restored(from), madeOf("main", hashOf(w.sandbox, "")), func(p *corev1.Pod) { p.UID = w.uid("pod") })
	if from == "" {
		delete(w.pod.Annotations, v1alpha1.AnnotationRestoredFrom)
	}
}

func (w *world) createSnapshot() {
	attempt := naming.PauseSnapshot(name, w.sandbox.Status.SnapshotAttempts)
	if w.snapshots[attempt] == nil {
		w.snapshots[attempt] = snapshotIn(v1alpha1.SnapshotPending, named(attempt), func(s *v1alpha1.SandboxSnapshot) {
			s.UID = w.uid("snapshot")
			s.Status.SourcePodUID = ""
		})
	}
}

// node is the kubelet's work.
func (w *world) node() {
	switch {
	case w.pod == nil:
	case w.frozen && w.pod.DeletionTimestamp == nil && w.saved() && w.now.Sub(w.waits) >= commitjob.DefaultThawAfter:
		w.frozen, w.ranOn = false, true
		w.note("node: nobody came, thawed")
	case w.killing == killUnasked && w.chance(8), w.killing == killUnderWay && w.chance(4):
		w.killing = killFailed
		w.note("node: the kill is gone")
	case w.killing == killUnderWay && w.chance(6):
		w.killing = killUnasked
		w.note("controller: restarts, and knows of no kill")
	case w.killing == killUnderWay:
		w.killing = killed
		w.note("node: what was frozen is killed")
	case w.pod.DeletionTimestamp != nil:
		// Who is frozen cannot end by itself, and has all of its grace.
		if grace := *w.pod.DeletionGracePeriodSeconds; !w.frozen || w.killing == killed || grace <= removalGrace || w.chance(10) || w.calm && !w.now.Before(w.pod.DeletionTimestamp.Add(lastRetry)) {
			w.removePod()
		}
	case w.pod.Status.Phase == corev1.PodPending:
		w.pod = podOf(runs, func(p *corev1.Pod) {
			p.UID, p.Annotations, p.OwnerReferences = w.pod.UID, w.pod.Annotations, w.pod.OwnerReferences
		})
		w.note("node: Pod %s runs", w.pod.UID)
	}
}

func (w *world) write() {
	// A Pod that was never seen running has nothing that anybody could have seen.
	if w.pod != nil && w.pod.Status.Phase == corev1.PodRunning && !w.frozen && w.sandbox.Status.PodUID == w.pod.UID &&
		w.sandbox.Status.Phase != v1alpha1.SandboxPending && w.sandbox.Status.Phase != v1alpha1.SandboxResuming {
		w.files++
	}
}

func (w *world) terminate(grace *int64) {
	if w.pod == nil {
		return
	}
	seconds := int64(30)
	if grace != nil {
		seconds = *grace
	}
	w.pod = w.pod.DeepCopy()
	terminating(seconds)(w.pod)
	w.pod.DeletionTimestamp = &metav1.Time{Time: w.now}
}

func (w *world) removePod() {
	if w.pod == nil {
		return
	}
	attempt := w.snapshots[naming.PauseSnapshot(name, w.sandbox.Status.SnapshotAttempts)]
	if saved := attempt != nil && attempt.Status.Phase == v1alpha1.SnapshotSucceed && attempt.Status.SourcePodUID == w.pod.UID && w.content[attempt.Name] == w.files; !saved {
		w.filesGo()
	}
	w.note("node: Pod %s is gone", w.pod.UID)
	w.last, w.pod, w.frozen = w.files, nil, false
	w.unsaid = false // what only the Pod knew is not to be known any more
}

// filesGo notes a loss of what the Pod has more than it came with.
func (w *world) filesGo() {
	if w.files > w.base && !w.gaveUp && w.sandbox.Spec.DesiredState == v1alpha1.DesiredStatePaused {
		w.unnoted, w.unnotedSince = true, w.dataLost()
		w.note("files go while a pause is wanted")
	}
}

func (w *world) dataLost() string {
	if lost := meta.FindStatusCondition(w.sandbox.Status.Conditions, v1alpha1.ConditionDataLost); lost != nil {
		return string(lost.Status) + lost.Message
	}
	return ""
}

func (w *world) pausedReason() string {
	if paused := meta.FindStatusCondition(w.sandbox.Status.Conditions, v1alpha1.ConditionPaused); paused != nil {
		return paused.Reason
	}
	return ""
}

// commit is the snapshot controller's work, and the committer's, on the last attempt, and on
// whatever is being deleted.
func (w *world) commit() {
	for _, snapshot := range w.snapshots {
		if snapshot.DeletionTimestamp != nil {
			w.letGo(snapshot)
		}
	}
	attempt := w.snapshots[naming.PauseSnapshot(name, w.sandbox.Status.SnapshotAttempts)]
	if attempt == nil || attempt.DeletionTimestamp != nil || finished(attempt) {
		return
	}
	if !w.awaited(attempt) {
		w.endCommit(attempt, v1alpha1.ReasonCanceled)
		return
	}
	if attempt.Status.Phase == v1alpha1.SnapshotPending {
		switch {
		case w.pod == nil || w.pod.UID != w.sandbox.Status.PodUID:
			w.endCommit(attempt, v1alpha1.ReasonSourcePodNotFound)
		case w.chance(4):
			queuedSnapshot(attempt)
		case w.chance(6):
			w.endCommit(attempt, v1alpha1.ReasonPushSecretNotFound)
		default:
			attempt.Status.Phase, attempt.Status.SourcePodUID = v1alpha1.SnapshotCommitting, w.pod.UID
			attempt.Status.Conditions = nil
			w.ranOn = false // that was another's, and what has ended is not frozen
			w.note("snapshot: %s commits", attempt.Name)
		}
		return
	}
	there := w.pod != nil && w.pod.UID == attempt.Status.SourcePodUID
	switch {
	case !there || w.chance(4):
		w.endCommit(attempt, v1alpha1.ReasonCommitJobFailed)
	case w.pod.Status.Phase == corev1.PodRunning && !w.frozen:
		w.frozen, w.killing, w.ranOn = true, killUnasked, false
		w.waits, w.since, w.known = w.now, w.now, true
		w.note("snapshot: frozen")
	default:
		attempt.Status.Phase, attempt.Status.CompletionTime = v1alpha1.SnapshotSucceed, &metav1.Time{Time: w.now}
		attempt.Status.Containers = []v1alpha1.ContainerSnapshot{{ContainerName: "main", ContainerID: bareID(w.pod.Status.ContainerStatuses[0].ContainerID)}}
		w.content[attempt.Name] = w.files
		w.waits = w.now
		w.note("snapshot: %s holds %d writes", attempt.Name, w.files)
	}
}

// saved is whether the last attempt's commit has ended well.
func (w *world) saved() bool {
	attempt := w.snapshots[naming.PauseSnapshot(name, w.sandbox.Status.SnapshotAttempts)]
	return attempt != nil && attempt.Status.Phase == v1alpha1.SnapshotSucceed
}

// away is a server that is away for a while, and knows then of nothing that went before.
func (w *world) away() {
	w.known = false
	w.now = w.now.Add(time.Duration(w.rand.IntN(10)) * time.Minute)
	w.note("controller: was away")
}

// staying is what the Reconciler finds out of what is frozen.
func (w *world) staying() staying {
	switch {
	case w.known && w.now.Sub(w.since) < commitjob.DefaultThawAfter/2:
		return stays
	case w.ranOn && w.chance(3):
		return unknown
	case w.ranOn:
		return ranOn
	case !w.frozen:
		return stays // it has ended
	}
	return unclaimed
}

// claim has the node told that somebody is there, or fails.
func (w *world) claim() {
	if w.ranOn || w.chance(4) && !w.calm {
		return
	}
	w.waits, w.since, w.known = w.now, w.now, true
}

// awaited says whether the sandbox waits for the attempt.
func (w *world) awaited(attempt *v1alpha1.SandboxSnapshot) bool {
	status := &w.sandbox.Status
	paused := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionPaused)
	return status.Phase == v1alpha1.SandboxPausing && attempt.Name == naming.PauseSnapshot(name, status.SnapshotAttempts) && paused.Reason != v1alpha1.ReasonCanceling
}

// endCommit is a snapshot's failure: it says so only when nothing is frozen.
func (w *world) endCommit(attempt *v1alpha1.SandboxSnapshot, reason string) {
	w.thawSource(attempt)
	snapshotIn(v1alpha1.SnapshotFailed).Status.DeepCopyInto(&attempt.Status)
	attempt.Status.Conditions[0].Reason = reason
	attempt.Status.CompletionTime = &metav1.Time{Time: w.now}
	w.note("snapshot: %s failed: %s", attempt.Name, reason)
}

// letGo is the end of a snapshot that is being deleted: never while a sandbox needs it, and
// never with containers frozen by it.
func (w *world) letGo(snapshot *v1alpha1.SandboxSnapshot) {
	if w.sandbox.Status.SnapshotName == snapshot.Name {
		return
	}
	if !finished(snapshot) {
		w.endCommit(snapshot, v1alpha1.ReasonCanceled)
		return
	}
	if snapshot.Status.Phase == v1alpha1.SnapshotSucceed && w.sandbox.Status.Phase == v1alpha1.SandboxPausing &&
		snapshot.Name == naming.PauseSnapshot(name, w.sandbox.Status.SnapshotAttempts) {
		w.thawSource(snapshot)
	}
	delete(w.snapshots, snapshot.Name)
	w.note("snapshot: %s is gone", snapshot.Name)
}

// askRegistry finds an image, finds it missing, or finds nothing out.
func (w *world) askRegistry(snapshot *v1alpha1.SandboxSnapshot) {
	missing, unknown := w.chance(4), w.chance(4)
	switch {
	case missing:
		notInRegistry(snapshot)
		w.note("registry: the image of %s is missing", snapshot.Name)
	case unknown:
		registryUnknown(snapshot)
	default:
		inRegistry(snapshot)
	}
}

// sweepRegistry asks about the image of the next resume.
func (w *world) sweepRegistry() {
	if snapshot := w.snapshots[w.sandbox.Status.SnapshotName]; snapshot != nil {
		w.askRegistry(snapshot)
	}
}

func (w *world) thawSource(snapshot *v1alpha1.SandboxSnapshot) {
	if w.pod != nil && w.pod.UID == snapshot.Status.SourcePodUID {
		w.frozen = false
	}
}

// What people do.

// The verbs are the API's own, on what is stored.

func (w *world) pause() {
	w.verb("pause", func(s *lifecycle.Sandbox) (*lifecycle.Sandbox, *registry.Refusal) { return registry.Pause(s, w.now) })
}

func (w *world) resume() {
	w.verb("resume", func(s *lifecycle.Sandbox) (*lifecycle.Sandbox, *registry.Refusal) {
		return registry.Resume(s, &lifecycle.SandboxResume{}, nil, w.now)
	})
}

// renew sets another lifetime, and expire ends one.
func (w *world) renew() {
	w.sandbox = w.sandbox.DeepCopy()
	w.sandbox.Spec.ExpireTime, w.sandbox.Spec.ExpireAction = v1alpha1.ExpireAt(w.now.Add(time.Duration(1+w.rand.IntN(90))*time.Second)), v1alpha1.ExpireActionPause
	w.note("renewed for %s", w.sandbox.Spec.ExpireTime.Sub(w.now))
}

func (w *world) expire() {
	if deed, _ := expiry.Decide(w.sandbox, w.now); deed == expiry.Pause {
		w.note("it has expired")
		w.pause()
		if w.sandbox.Spec.DesiredState != v1alpha1.DesiredStatePaused && w.pausedReason() != v1alpha1.ReasonCanceling {
			w.fail("it has expired, and runs on")
		}
	}
}

// resumeElsewhere goes back to an older snapshot, or to the template.
func (w *world) resumeElsewhere() {
	request := &lifecycle.SandboxResume{}
	for snapshot := range w.content {
		if w.succeeded(snapshot) && w.snapshots[snapshot].DeletionTimestamp == nil {
			request.SnapshotName = max(request.SnapshotName, snapshot)
		}
	}
	if w.chance(2) || request.SnapshotName == "" {
		request = &lifecycle.SandboxResume{FromTemplate: true}
	}
	snapshot := &lifecycle.SandboxSnapshot{}
	if from := w.snapshots[request.SnapshotName]; from != nil {
		w.convert(from, snapshot)
	}
	w.gaveUp = w.verb("resume from "+request.SnapshotName, func(s *lifecycle.Sandbox) (*lifecycle.Sandbox, *registry.Refusal) {
		return registry.Resume(s, request, snapshot, w.now)
	}) || w.gaveUp
}

// edit changes the template, where the API lets it.
func (w *world) edit() {
	edited := w.sandbox.DeepCopy()
	edited.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("busybox:%d", w.rand.IntN(3))
	before, after := &lifecycle.Sandbox{}, &lifecycle.Sandbox{}
	w.convert(w.sandbox, before)
	w.convert(edited, after)
	for _, s := range []*lifecycle.Sandbox{before, after} {
		s.ResourceVersion = "1"
	}
	if errs := validation.ValidateSandboxUpdate(after, before, w.now); len(errs) > 0 {
		w.note("edit: %v", errs)
		return
	}
	edited.Generation++
	w.sandbox, w.asked = edited, true
	w.note("edit: the template is another")
}

func (w *world) convert(in, out any) {
	w.t.Helper()
	if err := legacy.Convert(in, out, nil); err != nil {
		w.t.Fatal(err)
	}
}

// legacy knows the API's own types.
var legacy = func() *runtime.Scheme {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	return scheme
}()

// verb says whether the API took it.
func (w *world) verb(what string, do func(*lifecycle.Sandbox) (*lifecycle.Sandbox, *registry.Refusal)) bool {
	before := &lifecycle.Sandbox{}
	w.convert(w.sandbox, before)
	noted := w.pausedReason() == v1alpha1.ReasonFilesLost || w.dataLost() != w.unnotedSince
	after, refusal := do(before)
	if refusal != nil {
		w.note("%s: refused: %s", what, refusal.Cause.Message)
		return false
	}
	w.sandbox = &v1alpha1.Sandbox{}
	w.convert(after, w.sandbox)
	w.asked = true
	w.unnoted = w.unnoted && !noted && w.sandbox.Spec.DesiredState == v1alpha1.DesiredStatePaused
	w.note("%s: %s", what, summary(&w.sandbox.Status))
	return true
}

func (w *world) update() {
	w.sandbox = w.sandbox.DeepCopy()
	w.want([]v1alpha1.SandboxDesiredState{v1alpha1.DesiredStateRunning, v1alpha1.DesiredStatePaused}[w.rand.IntN(2)])
	w.unnoted = w.unnoted && w.sandbox.Spec.DesiredState == v1alpha1.DesiredStatePaused
	w.note("update: %s", w.sandbox.Spec.DesiredState)
}

func (w *world) want(state v1alpha1.SandboxDesiredState) {
	if w.sandbox.Spec.DesiredState != state {
		w.sandbox.Spec.DesiredState = state
		w.sandbox.Generation++
		w.asked = true
	}
}

func (w *world) deletePod() {
	w.note("somebody deletes the Pod")
	w.terminate(nil)
}

func (w *world) losePod() {
	if w.chance(3) {
		w.removePod()
	}
}

func (w *world) evict() {
	if w.pod != nil && w.chance(3) {
		w.pod = w.pod.DeepCopy()
		evictedPod(w.pod)
		w.frozen = false
		w.note("evicted")
	}
}

// move is somebody who has heard that the Pod is to go.
func (w *world) move() {
	if w.pod == nil {
		return
	}
	request := move.Request{PodUID: w.pod.UID, NodeName: "node-1", Reason: v1alpha1.ReasonEvicted}
	answer := move.Decide(w.sandbox, request)
	w.note("move: %s", answer)
	if record, is := move.Next(w.sandbox, request, w.now); is && answer == move.Moves {
		w.sandbox = w.sandbox.DeepCopy()
		w.sandbox.Status.Move = record
	}
}

func (w *world) editPolicy() {
	w.sandbox = w.sandbox.DeepCopy()
	w.sandbox.Spec.EvictionPolicy = []v1alpha1.SandboxEvictionPolicy{v1alpha1.EvictionPolicySave, v1alpha1.EvictionPolicySave, v1alpha1.EvictionPolicyNone}[w.rand.IntN(3)]
	w.sandbox.Generation++
	w.asked = true
	w.note("edit: evictionPolicy %s", w.sandbox.Spec.EvictionPolicy)
}

func (w *world) end() {
	if w.pod != nil && w.pod.Status.Phase == corev1.PodRunning && !w.frozen {
		w.pod = w.pod.DeepCopy()
		ended(w.pod)
		w.note("containers end")
	}
}

func (w *world) restart() {
	if w.pod == nil || w.pod.Status.Phase != corev1.PodRunning || w.frozen {
		return
	}
	w.filesGo()
	w.pod = w.pod.DeepCopy()
	restartedPod(w.pod)
	w.pod.Status.ContainerStatuses[0].ContainerID = "containerd://" + string(w.uid("c"))
	w.resets = resetsOf(w.pod, firstRuns{}, nil)
	w.unsaid = w.unsaid || w.files > w.base
	w.files = w.base
	w.note("a container is restarted in place")
	for _, snapshot := range w.snapshots {
		if snapshot.Status.Phase == v1alpha1.SnapshotCommitting && snapshot.Status.SourcePodUID == w.pod.UID {
			w.endCommit(snapshot, v1alpha1.ReasonContainerRestarted)
		}
	}
}

func (w *world) adopt() {
	if w.pod != nil && adopter(w.pod) == "" && w.chance(4) {
		w.pod = w.pod.DeepCopy()
		takenBy("ReplicaSet", "web")(w.pod) // it had lost its owner
		w.note("adopted")
	}
}

func (w *world) deleteSnapshot() {
	attempt := w.snapshots[naming.PauseSnapshot(name, w.sandbox.Status.SnapshotAttempts)]
	if attempt != nil && attempt.DeletionTimestamp == nil {
		deletedSnapshot(attempt)
		w.note("somebody deletes %s", attempt.Name)
	}
}

func (w *world) succeeded(snapshot string) bool {
	found := w.snapshots[snapshot]
	return found != nil && found.Status.Phase == v1alpha1.SnapshotSucceed
}

// chance is true once in n times, and never when the world is calm.
func (w *world) chance(n int) bool { return !w.calm && w.rand.IntN(n) == 0 }

func (w *world) uid(kind string) types.UID {
	w.count++
	return types.UID(fmt.Sprintf("%s-%d", kind, w.count))
}
