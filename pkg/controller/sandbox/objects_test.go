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
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

const (
	namespace = "default"
	name      = "demo"
	// podUID is that of the Pod which the sandbox ran in last.
	podUID types.UID = "pod-1"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// sandboxIn is the sandbox demo in a phase, changed by the given options.
func sandboxIn(phase v1alpha1.SandboxPhase, options ...func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
	sandbox := &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "sandbox-1", Generation: 3, Finalizers: []string{v1alpha1.SandboxFinalizer}},
		Spec: v1alpha1.SandboxSpec{
			DesiredState: v1alpha1.DesiredStateRunning,
			Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: "main", Image: "busybox"}},
			}},
		},
		Status: v1alpha1.SandboxStatus{Phase: phase},
	}
	for _, option := range options {
		option(sandbox)
	}
	return sandbox
}

func wantsPaused(s *v1alpha1.Sandbox) { s.Spec.DesiredState = v1alpha1.DesiredStatePaused }

// onPod: the status tells of the Pod podUID.
func onPod(s *v1alpha1.Sandbox) { s.Status.PodName, s.Status.PodUID = name, podUID }

// creates: the Pod's name is written and the Pod is not there yet.
func creates(s *v1alpha1.Sandbox) { s.Status.PodName = name }

func saved(snapshot string) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) { s.Status.SnapshotName = snapshot }
}

func restoresFrom(snapshot string) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) {
		s.Spec.RestoreFrom = &v1alpha1.SandboxRestoreSource{SnapshotName: snapshot}
	}
}

func attempts(n int64) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) { s.Status.SnapshotAttempts = n }
}

func failures(n int32) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) { s.Status.FailedAttempts = n }
}

// says sets a condition, like "Paused=False/Canceling".
func says(kind string, status metav1.ConditionStatus, reason string) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) {
		meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{Type: kind, Status: status, Reason: reason})
	}
}

var (
	heldByLoss    = says(v1alpha1.ConditionPaused, metav1.ConditionFalse, v1alpha1.ReasonFilesLost)
	canceling     = says(v1alpha1.ConditionPaused, metav1.ConditionFalse, v1alpha1.ReasonCanceling)
	thawing       = says(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonThawing)
	removing      = says(v1alpha1.ConditionPaused, metav1.ConditionFalse, v1alpha1.ReasonRemovingPod)
	queuedBy      = says(v1alpha1.ConditionPaused, metav1.ConditionFalse, v1alpha1.ReasonQueued)
	lostDataBy    = says(v1alpha1.ConditionDataLost, metav1.ConditionTrue, v1alpha1.ReasonPodLost)
	adoptedBefore = says(v1alpha1.ConditionPodAdopted, metav1.ConditionTrue, v1alpha1.ReasonPodAdopted)
	withdrawn     = says(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonWithdrawing)
	ofBadSource   = says(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonSnapshotNotReady)
	failedPause   = says(v1alpha1.ConditionPaused, metav1.ConditionFalse, v1alpha1.ReasonRegistryUnavailable)
)

// podOf is the sandbox's Pod podUID, running and ready, changed by the given options.
func podOf(options ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: podUID,
			Labels:          map[string]string{v1alpha1.LabelSandbox: name, v1alpha1.LabelSandboxUID: "sandbox-1"},
			Annotations:     map[string]string{safeToEvict: "true"},
			OwnerReferences: []metav1.OwnerReference{controllerOf(sandboxIn(""))},
		},
		Spec: corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{{Name: "main", Image: "busybox"}}},
		Status: corev1.PodStatus{
			Phase:             corev1.PodRunning,
			PodIP:             "10.0.0.1",
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "main", ContainerID: "containerd://c1", Image: "busybox"}},
		},
	}
	for _, option := range options {
		option(pod)
	}
	return pod
}

func pendingPod(p *corev1.Pod) {
	p.Status.Phase, p.Status.Conditions, p.Status.PodIP = corev1.PodPending, nil, ""
	p.Status.ContainerStatuses[0].ContainerID = ""
	p.Status.ContainerStatuses[0].State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
}

// cannotPull: the image of its container cannot be pulled.
func cannotPull(p *corev1.Pod) {
	pendingPod(p)
	p.Status.ContainerStatuses[0].State.Waiting.Reason = "ImagePullBackOff"
}

func withoutNode(p *corev1.Pod) {
	pendingPod(p)
	p.Spec.NodeName, p.Status.ContainerStatuses = "", nil
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/1 nodes are available"}}
}

// endedUnrun: the Pod has ended, because the process of its container could not be begun.
func endedUnrun(p *corev1.Pod) {
	p.Status.Phase, p.Status.Conditions = corev1.PodFailed, nil
	p.Status.ContainerStatuses[0].State.Terminated = &corev1.ContainerStateTerminated{
		Reason: "StartError", ExitCode: 128, Message: "exec: typo: not found", StartedAt: metav1.Unix(0, 0), FinishedAt: metav1.Time{Time: epoch},
	}
}

// madeOf: the Pod says what it was made of.
func madeOf(containers, template string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Annotations[v1alpha1.AnnotationContainers], p.Annotations[v1alpha1.AnnotationTemplate] = containers, template
	}
}

// otherRuns: another container of the Pod runs.
func otherRuns(p *corev1.Pod) {
	p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{
		Name: "other", ContainerID: "containerd://c9", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
	})
}

func notReadyPod(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }

func ended(p *corev1.Pod) { p.Status.Phase, p.Status.Conditions = corev1.PodSucceeded, nil }

func evictedPod(p *corev1.Pod) {
	p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, "Evicted", "the node was low on memory"
}

// notAdmitted: the kubelet has no room for the Pod.
func notAdmitted(p *corev1.Pod) {
	p.Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "OutOfcpu", Message: "Pod was rejected: Node didn't have enough resource: cpu, requested: 64000, used: 250, capacity: 2000"}
}

// terminating: it is being deleted, and its time to end is over just when an observation is made.
func terminating(grace int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: epoch.Add(time.Hour)}, &grace
	}
}

// runs: the container that a snapshot of mainSaved has frozen.
func runs(p *corev1.Pod) {
	p.Status.ContainerStatuses[0].State.Running = &corev1.ContainerStateRunning{}
}

func sidecarRuns(p *corev1.Pod) {
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "side", ContainerID: "containerd://c2", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
}

func replaced(p *corev1.Pod) { p.UID = "pod-2" }

// restartedPod: the container was killed and started once more.
func restartedPod(p *corev1.Pod) {
	main := &p.Status.ContainerStatuses[0]
	main.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{
		Reason: "OOMKilled", ExitCode: 137, StartedAt: metav1.Time{Time: epoch}, FinishedAt: metav1.Time{Time: epoch.Add(time.Minute)}, ContainerID: main.ContainerID,
	}
	main.RestartCount++
	main.ContainerID = fmt.Sprintf("containerd://c1-%d", main.RestartCount)
}

func restartedTwice(p *corev1.Pod) {
	restartedPod(p)
	restartedPod(p)
}

// cannotStart: the runtime makes the container, and its process never begins.
func cannotStart(p *corev1.Pod) {
	main := &p.Status.ContainerStatuses[0]
	main.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	main.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{
		Reason: "StartError", ExitCode: 128, StartedAt: metav1.Unix(0, 0), FinishedAt: metav1.Time{Time: epoch}, ContainerID: main.ContainerID,
	}
	main.RestartCount = 7
}

// takenBy: a controller has taken the Pod for one of its own.
func takenBy(kind, name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		version := "apps/v1"
		if kind == "Namespace" {
			version = "v1"
		}
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: version, Kind: kind, Name: name, UID: "owner-1", Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true)}}
	}
}

func lastSaw(pod *corev1.Pod) func(*observed) {
	return func(o *observed) { o.lastResets = resetsOf(pod, firstRuns{}, nil) }
}

// unowned: the Pod is of an older version, or somebody has taken its owner away.
func unowned(p *corev1.Pod) { p.OwnerReferences = nil }

func unguarded(o *observed) { o.unguarded = true }

func restored(snapshot string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Annotations[v1alpha1.AnnotationRestoredFrom] = snapshot
	}
}

// snapshotIn is the snapshot of the sandbox's first attempt, of the Pod podUID, in a phase.
func snapshotIn(phase v1alpha1.SandboxSnapshotPhase, options ...func(*v1alpha1.SandboxSnapshot)) *v1alpha1.SandboxSnapshot {
	snapshot := &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: "demo-gen1", UID: "snapshot-1",
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(sandboxIn(""), v1alpha1.SchemeGroupVersion.WithKind("Sandbox"))},
		},
		Spec: v1alpha1.SandboxSnapshotSpec{
			SandboxName: name, Pause: &v1alpha1.SnapshotPause{SandboxUID: "sandbox-1", PodUID: podUID, Attempt: 1},
		},
		Status: v1alpha1.SandboxSnapshotStatus{Phase: phase, SandboxUID: "sandbox-1", SourcePodName: name, SourcePodUID: podUID, SourceNodeName: "node-1", JobUID: "job-1"},
	}
	if phase == v1alpha1.SnapshotSucceed || phase == v1alpha1.SnapshotFailed {
		snapshot.Status.CompletionTime = &metav1.Time{Time: epoch}
	}
	if phase == v1alpha1.SnapshotFailed {
		meta.SetStatusCondition(&snapshot.Status.Conditions, metav1.Condition{
			Type: v1alpha1.ConditionFailed, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonRegistryUnavailable, Message: "it does not answer",
		})
	}
	for _, option := range options {
		option(snapshot)
	}
	return snapshot
}

func mainSaved(s *v1alpha1.SandboxSnapshot) {
	s.Status.Containers = []v1alpha1.ContainerSnapshot{{ContainerName: "main", ContainerID: "c1"}}
}

func savedAs(container string) func(*v1alpha1.SandboxSnapshot) {
	return func(s *v1alpha1.SandboxSnapshot) {
		s.Status.Containers = []v1alpha1.ContainerSnapshot{{ContainerName: "main", ContainerID: container}}
	}
}

// tellsOf: DataLost tells of what was done to the Pod.
func tellsOf(losses ...func(*corev1.Pod)) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) {
		meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{
			Type: v1alpha1.ConditionDataLost, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonFilesystemReset, Message: list(resetsOf(podOf(losses...), firstRuns{}, nil)),
		})
	}
}

func failedFor(reason string) func(*v1alpha1.SandboxSnapshot) {
	return func(s *v1alpha1.SandboxSnapshot) { s.Status.Conditions[0].Reason = reason }
}

func named(snapshot string) func(*v1alpha1.SandboxSnapshot) {
	return func(s *v1alpha1.SandboxSnapshot) {
		s.Name = snapshot
		s.Spec.Pause.Attempt = naming.Attempt(snapshot)
	}
}

func notOurs(s *v1alpha1.SandboxSnapshot) { s.Spec.Pause.SandboxUID = "another" }

// disowned: somebody has taken the owner away.
func disowned(s *v1alpha1.SandboxSnapshot) { s.OwnerReferences, s.Labels = nil, nil }

func deletedSnapshot(s *v1alpha1.SandboxSnapshot) {
	s.DeletionTimestamp = &metav1.Time{Time: epoch}
	s.Finalizers = []string{v1alpha1.SnapshotFinalizer}
}

func inUse(s *v1alpha1.SandboxSnapshot) {
	meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonInUse, Message: "the deletion waits"})
}

func queuedSnapshot(s *v1alpha1.SandboxSnapshot) {
	meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonQueued, Message: "waiting: 2 commits run on node node-1",
	})
}

// thawingSnapshot: the attempt has failed, and what it froze is not thawed yet.
func thawingSnapshot(s *v1alpha1.SandboxSnapshot) {
	meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonThawing, Message: "making sure that nothing stays frozen: Too many pods",
	})
}

// begun: the commit began at the epoch.
func begun(s *v1alpha1.SandboxSnapshot) { s.Status.StartTime = &metav1.Time{Time: epoch} }

func refusedSnapshot(s *v1alpha1.SandboxSnapshot) {
	meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonCommitPodRejected, Message: "exceeded quota: small",
	})
}

func ofContainer(container, image, digest string) func(*v1alpha1.SandboxSnapshot) {
	return func(s *v1alpha1.SandboxSnapshot) {
		s.Status.Containers = append(s.Status.Containers, v1alpha1.ContainerSnapshot{ContainerName: container, ImageURI: image, ImageDigest: digest})
	}
}

// observation is what decide sees, an hour after the last attempt ended.
func observation(sandbox *v1alpha1.Sandbox, options ...func(*observed)) observed {
	o := observed{sandbox: sandbox, now: epoch.Add(time.Hour)}
	for _, option := range options {
		option(&o)
	}
	return o
}

func sees(object any) func(*observed) {
	return func(o *observed) {
		switch object := object.(type) {
		case *corev1.Pod:
			o.pod = object
		case *v1alpha1.SandboxSnapshot:
			o.attempt = object
		}
	}
}

// comesFrom: the snapshot is there, and its images have been looked for at this visit.
func comesFrom(snapshot *v1alpha1.SandboxSnapshot) func(*observed) {
	return func(o *observed) { o.from, o.checked = snapshot, true }
}

func unchecked(o *observed) { o.checked = false }

// images sets the condition ImageAvailable.
func images(status metav1.ConditionStatus, reason string) func(*v1alpha1.SandboxSnapshot) {
	return func(s *v1alpha1.SandboxSnapshot) {
		meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionImageAvailable, Status: status, Reason: reason, Message: "what the registry said"})
	}
}

var (
	inRegistry      = images(metav1.ConditionTrue, v1alpha1.ReasonImageAvailable)
	notInRegistry   = images(metav1.ConditionFalse, v1alpha1.ReasonImageUnavailable)
	registryUnknown = images(metav1.ConditionUnknown, v1alpha1.ReasonRegistryUnavailable)
	saysMissing     = says(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonImageUnavailable)
)

func thawed(o *observed) { o.thawed = true }

func thawWaits(o *observed) { o.thawWaits = "no place on the node" }

func hasKill(how killing) func(*observed) { return func(o *observed) { o.killing = how } }

// retries: what failed last waits until then, and the spec has not been edited since.
func retries(in time.Duration) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) {
		s.Status.RetryTime = &metav1.MicroTime{Time: epoch.Add(in)}
		s.Status.ObservedGeneration = s.Generation
	}
}

// failedPods: so many Pods in a row have not lasted before the last one.
func failedPods(n int32) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) { s.Status.FailedPods = n }
}

func edited(s *v1alpha1.Sandbox) { s.Generation++ }

func attemptHeld(d time.Duration) func(*observed) {
	return func(o *observed) { o.attemptHeld = d }
}

func unblocked(o *observed) { o.unblocked = true }

// nameWritten: the Pod's name was written at this visit.
func nameWritten(o *observed) { o.named = true }

// asked: the registry was asked about the image of the Pod that is there.
func asked(ago time.Duration) func(*observed) {
	return func(o *observed) { o.looksAgain = firstRetry - ago }
}

// takenUpTo: snapshots that are not this sandbox's have the names of so many attempts.
func takenUpTo(attempt int64) func(*observed) {
	return func(o *observed) { o.highest = attempt }
}

func fresh(o *observed) { o.fresh = true }

// sawNothingRun: the Pod podUID was seen, and no container of it ever ran.
func sawNothingRun(o *observed) { o.runs = firstRuns{uid: podUID, since: map[string]int32{}} }

// sawMainRun: the watch has shown the container of the Pod podUID running.
func sawMainRun(o *observed) {
	o.runs = firstRuns{uid: podUID, since: map[string]int32{"main": 0}}
}

// startsSince: a pause is wanted while the Pod starts.
func startsSince(ago time.Duration) func(*observed) {
	return func(o *observed) { o.startLeft = startPatience - ago }
}

func templateIs(hash string) func(*observed) {
	return func(o *observed) { o.template = hash }
}

func prior(snapshot string) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) { s.Status.PriorSnapshotName = snapshot }
}

// containerIs: the template's container has that name.
func containerIs(name string) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) { s.Spec.Template.Spec.Containers[0].Name = name }
}

func after(d time.Duration) func(*observed) {
	return func(o *observed) { o.now = epoch.Add(d) }
}

var (
	shortGrace = ptr.To[int64](removalGrace)
	killGrace  = ptr.To[int64](30)
)
