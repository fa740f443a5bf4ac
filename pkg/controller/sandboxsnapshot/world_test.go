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
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

// world is two sandboxes on one node that commits one at a time, the cluster that they run in, and whoever has rights there.
type world struct {
	t    *testing.T
	seed uint64
	rand *rand.Rand
	now  time.Time
	api  *api
	r    *Reconciler
	past []string
	made int

	// frozen are the Pods of sandboxes that are.
	frozen map[types.UID]bool
	// sources are what commit Jobs are of, by their UID, whatever becomes of their annotations.
	sources map[types.UID]*commitjob.Source
	// decided are removals that a sandbox's controller has decided on and not written yet.
	decided map[string]*v1alpha1.Sandbox
	// answers are what requests for a kind answer now; lates the Jobs that will be there though the answer was an error.
	answers map[string]error
	lates   []lateJob
	// creations are when each Job was last created.
	creations map[string]time.Time
	// images are those of copies in the registry, and the UIDs of their snapshots.
	images map[string]types.UID
	// full: the node has room for no Pod; refuses: the API refuses Pods of Jobs.
	full, refuses, calmed bool
	// requests counts those of a visit, which dies at the one of number dies; failures those that were answered with an error.
	requests, dies, failures int
}

type lateJob struct {
	job *batchv1.Job
	due time.Time
}

var (
	errDied = errors.New("the process has died")
)

func requestFor(key client.ObjectKey) ctrl.Request { return ctrl.Request{NamespacedName: key} }

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{
		t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 7)), now: epoch, dies: -1, frozen: map[types.UID]bool{}, sources: map[types.UID]*commitjob.Source{},
		decided: map[string]*v1alpha1.Sandbox{}, answers: map[string]error{}, creations: map[string]time.Time{}, images: map[string]types.UID{},
	}
	w.api = newAPI(func() metav1.Time { return metav1.NewTime(w.now) })
	if err := errors.Join(AddIndexes(t.Context(), w.api), commitjob.AddIndexes(t.Context(), w.api)); err != nil {
		t.Fatal(err)
	}
	w.must(w.api.IndexField(t.Context(), &v1alpha1.SandboxSnapshot{}, v1alpha1.FieldStatusPhase, func(o client.Object) []string {
		return []string{string(o.(*v1alpha1.SandboxSnapshot).Status.Phase)}
	}))
	w.must(w.api.store(node("node-1", corev1.ConditionTrue)))
	w.must(w.api.store(pushSecret(corev1.SecretTypeDockerConfigJson, "{}")))
	for _, name := range []string{"one", "two"} {
		w.must(w.api.store(pausing(name, running)))
		w.must(w.api.store(podOf(name)))
	}
	w.api.before = w.answer
	w.api.created = w.creates
	w.restart()
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("seed %d: %v\n%s", w.seed, err, strings.Join(w.past, "\n"))
	}
}

func (w *world) chance(of int) bool { return w.rand.IntN(of) == 0 }

// Now and Since are the controller's clock.
func (w *world) Now() time.Time                     { return w.now }
func (w *world) Since(then time.Time) time.Duration { return w.now.Sub(then) }

// restart begins with a controller that remembers nothing. What the old one has asked for and had no answer to is lost with it.
func (w *world) restart() {
	images, err := naming.ParseImageTemplate("registry.example.com", "")
	w.must(err)
	w.lates, w.creations, w.dies = nil, map[string]time.Time{}, -1
	w.r = &Reconciler{
		Client: informed{w.api}, Live: w.api, HostLive: w.api,
		Jobs: &commitjob.Runner{
			Config: commitjob.Config{Namespace: jobs, Image: "image-committer", Timeout: time.Minute, PushSecret: secret},
			Client: informed{w.api}, Live: w.api, Clock: w,
		},
		Images: images, Registry: w, Runtimes: []string{"runc"}, MaxPerNode: 1, MaxTotal: 2,
		Recorder: &events.FakeRecorder{}, Clock: w, wake: make(chan event.GenericEvent, 100),
	}
}

// woken lets those that have got a slot be visited soon: by chance, as everybody.
func (w *world) woken() {
	for len(w.r.wake) > 0 {
		<-w.r.wake
	}
}

// answer is what comes before each request of the controller.
func (w *world) answer(verb string, object client.Object) error {
	if w.requests++; w.requests == w.dies {
		panic(errDied)
	}
	kind := fmt.Sprintf("%T", object)
	err := w.answers[kind]
	if strings.HasPrefix(kind, "*v1alpha1") {
		if w.calmed || !w.chance(60) {
			return nil
		}
		return apierrors.NewServiceUnavailable("etcd is away")
	}
	if err != nil {
		w.failures++
		if job, is := object.(*batchv1.Job); is && verb == "create" && !apierrors.IsForbidden(err) && w.chance(2) {
			w.lates = append(w.lates, lateJob{job.DeepCopy(), w.now.Add(time.Duration(w.rand.IntN(50)) * time.Second)})
		}
	}
	return err
}

// creates checks that nothing is made again without a wait.
func (w *world) creates(job *batchv1.Job) {
	if last, before := w.creations[job.Name]; before && w.now.Sub(last) < time.Second {
		w.fail("Job %s is created again after %s", job.Name, w.now.Sub(last))
	}
	w.creations[job.Name] = w.now
	if job.Labels[v1alpha1.LabelComponent] == commit {
		w.made++
		job.UID = types.UID(fmt.Sprintf("job-%d", w.made))
		w.sources[job.UID], _ = commitjob.SourceOf(job)
	}
}

// late lets a Job appear whose creation was answered with an error.
func (w *world) late() {
	w.lates = slices.DeleteFunc(w.lates, func(late lateJob) bool {
		if late.due.After(w.now) {
			return false
		}
		w.note("api: Job %s is there after all: %v", late.job.Name, w.api.store(late.job))
		return true
	})
}

// trouble lets an API answer a kind's requests with an error.
func (w *world) trouble() {
	kinds := []string{"*v1.Job", "*v1.Pod", "*v1.Secret", "*v1.Node", "*v1.Event"}
	kind := kinds[w.rand.IntN(len(kinds))]
	resource := schema.GroupResource{Resource: kind}
	answers := []error{
		apierrors.NewInternalError(errors.New("failed calling webhook")), apierrors.NewForbidden(resource, "x", errors.New("RBAC: "+strings.Repeat("x", 152_000))),
		apierrors.NewTimeoutError("slow", 0), apierrors.NewConflict(resource, "x", errors.New("changed")), errors.New("connection refused"),
	}
	w.answers[kind] = answers[w.rand.IntN(len(answers))]
	w.note("api: %ss answer %.60s", kind, w.answers[kind].Error())
	if w.chance(3) {
		w.full = !w.full
	}
	if w.chance(3) {
		w.refuses = !w.refuses
	}
}

func (w *world) calmDown() { w.answers, w.full, w.refuses = map[string]error{}, false, false }

func (w *world) calm() {
	w.calmDown()
	w.calmed = true
	w.api.objects["*v1.Node /node-1"] = node("node-1", corev1.ConditionTrue)
	w.note("all is calm")
}

// Delete and Duplicate are the registry.
func (w *world) Delete(_ context.Context, image, _ string) error {
	if !w.calmed && w.chance(4) {
		return errors.New("the registry is down")
	}
	delete(w.images, image)
	return nil
}

func (w *world) Duplicate(_ context.Context, _, _, target string, annotations map[string]string) (string, error) {
	if !w.calmed && w.chance(4) {
		return "", errors.New("the registry is full")
	}
	w.images[target] = types.UID(annotations[snapshotUIDAnnotation])
	return "sha256:twin", nil
}

func (w *world) told(image string, uid types.UID) bool {
	snapshot := w.snapshotOf(uid)
	return snapshot != nil && slices.ContainsFunc(snapshot.Status.Containers, func(c v1alpha1.ContainerSnapshot) bool { return c.ImageURI == image })
}

// What there is.

func (w *world) snapshots() []*v1alpha1.SandboxSnapshot {
	return objectsOf[*v1alpha1.SandboxSnapshot](w, &v1alpha1.SandboxSnapshot{})
}
func (w *world) sandboxes() []*v1alpha1.Sandbox {
	return objectsOf[*v1alpha1.Sandbox](w, &v1alpha1.Sandbox{})
}
func (w *world) jobs() []*batchv1.Job { return objectsOf[*batchv1.Job](w, &batchv1.Job{}) }
func (w *world) pods() []*corev1.Pod  { return objectsOf[*corev1.Pod](w, &corev1.Pod{}) }

func objectsOf[T client.Object](w *world, kind T) []T {
	var all []T
	for _, stored := range w.api.all(kind) {
		all = append(all, stored.DeepCopyObject().(T))
	}
	return all
}

func (w *world) snapshot(key client.ObjectKey) *v1alpha1.SandboxSnapshot {
	snapshot := &v1alpha1.SandboxSnapshot{}
	if w.api.read(key, snapshot) != nil {
		return nil
	}
	return snapshot
}

func (w *world) snapshotOf(uid types.UID) *v1alpha1.SandboxSnapshot {
	for _, snapshot := range w.snapshots() {
		if snapshot.UID == uid {
			return snapshot
		}
	}
	return nil
}

func (w *world) job(name string) *batchv1.Job {
	job := &batchv1.Job{}
	if w.api.read(client.ObjectKey{Namespace: jobs, Name: name}, job) != nil {
		return nil
	}
	return job
}

func (w *world) pod(key client.ObjectKey) *corev1.Pod {
	pod := &corev1.Pod{}
	if w.api.read(key, pod) != nil {
		return nil
	}
	return pod
}

// keys are those of all snapshots that there are, or that a Job tells of.
func (w *world) keys() []client.ObjectKey {
	var keys []client.ObjectKey
	for _, snapshot := range w.snapshots() {
		keys = append(keys, client.ObjectKeyFromObject(snapshot))
	}
	for _, job := range w.jobs() {
		for _, request := range served(job) {
			keys = append(keys, request.NamespacedName)
		}
	}
	for key := range w.r.slots.held {
		if of, is := strings.CutPrefix(key.Namespace, strayPrefix); is {
			namespace, name, _ := strings.Cut(of, "/")
			keys = append(keys, client.ObjectKey{Namespace: namespace, Name: name})
		} else {
			keys = append(keys, key) // its deletion was an event
		}
	}
	for key := range w.r.slots.queue.tickets {
		keys = append(keys, key)
	}
	for key := range w.r.memory.of {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b client.ObjectKey) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(keys)
}

// bound says what will thaw or end a frozen Pod, empty where nothing does.
func (w *world) bound(pod types.UID) string {
	for _, job := range w.jobs() {
		if job.Labels[v1alpha1.LabelPodUID] == string(pod) {
			return "Job " + job.Name
		}
	}
	for _, its := range w.pods() {
		if its.UID == pod && its.DeletionTimestamp != nil || its.Labels[v1alpha1.LabelPodUID] == string(pod) && mayRun(its) {
			return "Pod " + its.Name
		}
	}
	for _, snapshot := range w.snapshots() {
		if snapshot.Status.SourcePodUID == pod && snapshot.Status.Phase == v1alpha1.SnapshotCommitting {
			return "snapshot " + snapshot.Name
		}
		for _, sandbox := range w.sandboxes() {
			if sandbox.Status.Phase == v1alpha1.SandboxPausing && IsAttemptOf(snapshot, sandbox) && snapshot.Status.SourcePodUID == pod {
				return "sandbox " + sandbox.Name
			}
		}
	}
	return ""
}

// mayRun says whether the container of a commit Pod may freeze or thaw.
func mayRun(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return false
	}
	return len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].State.Terminated == nil
}

// The cluster.

// jobController is kube-controller-manager's.
func (w *world) jobController() {
	for _, job := range w.jobs() {
		if ended(job) || w.chance(3) {
			continue
		}
		pod := w.pod(client.ObjectKey{Namespace: jobs, Name: job.Name + "-x"})
		switch given := *job.Spec.ActiveDeadlineSeconds == 1; {
		case given && pod != nil && mayRun(pod):
			w.api.leave(w.api.objects[w.api.key(pod, client.ObjectKeyFromObject(pod))])
		case given:
			w.ends(job, batchv1.JobFailed, batchv1.JobReasonDeadlineExceeded)
		case pod == nil && job.Status.Active > 0, pod != nil && pod.Status.Phase == corev1.PodFailed:
			w.ends(job, batchv1.JobFailed, batchv1.JobReasonBackoffLimitExceeded)
		case pod != nil && pod.Status.Phase == corev1.PodSucceeded:
			w.ends(job, batchv1.JobComplete, "")
		case pod == nil && w.refuses:
			told := &corev1.Event{
				ObjectMeta:     metav1.ObjectMeta{Namespace: jobs, Name: job.Name},
				InvolvedObject: corev1.ObjectReference{Kind: "Job", Namespace: jobs, Name: job.Name, UID: job.UID},
				Reason:         "FailedCreate", Message: "exceeded quota",
			}
			if w.api.store(told) == nil {
				w.note("kube: Job %s is refused its Pod", job.Name)
			}
		case pod == nil:
			job.Status.Active = 1
			w.api.put(job)
			w.must(w.api.store(&corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: jobs, Name: job.Name + "-x", Labels: job.Spec.Template.Labels, UID: types.UID(string(job.UID) + "-pod"),
					OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))},
				},
				Status: corev1.PodStatus{Phase: corev1.PodPending},
			}))
		}
	}
	for _, pod := range w.pods() { // the garbage collector
		if owner := metav1.GetControllerOf(pod); owner != nil && owner.Kind == "Job" {
			if job := w.job(owner.Name); job == nil || job.UID != owner.UID {
				w.api.leave(w.api.objects[w.api.key(pod, client.ObjectKeyFromObject(pod))])
			}
		}
	}
}

func (w *world) ends(job *batchv1.Job, kind batchv1.JobConditionType, reason string) {
	job.Status.Failed = job.Status.Active
	job.Status.Conditions = []batchv1.JobCondition{{Type: kind, Status: corev1.ConditionTrue, Reason: reason, LastTransitionTime: metav1.NewTime(w.now)}}
	w.api.put(job)
	w.note("kube: Job %s has ended: %s %s", job.Name, kind, reason)
}

// expire removes Jobs that ended five minutes ago.
func (w *world) expire() {
	for _, job := range w.jobs() {
		if ended(job) && w.now.Sub(job.Status.Conditions[0].LastTransitionTime.Time) > 5*time.Minute {
			w.api.remove(job)
		}
	}
}

// kubelet is the node's, while that is ready.
func (w *world) kubelet() {
	if at := (&corev1.Node{}); w.api.read(client.ObjectKey{Name: "node-1"}, at) != nil || at.Status.Conditions[0].Status != corev1.ConditionTrue {
		return
	}
	for _, pod := range w.pods() {
		switch {
		case w.chance(2) && !w.calmed:
		case pod.Labels[v1alpha1.LabelComponent] == "":
			// One of a sandbox. With the first version of the cgroup freezer who is frozen cannot be killed.
			if pod.DeletionTimestamp != nil {
				w.loses(pod)
			}
		case pod.Spec.NodeName == "" && w.full:
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "Too many pods"}}
			w.api.put(pod)
		case pod.Spec.NodeName == "":
			pod.Spec.NodeName, pod.Status.Conditions = "node-1", nil
			w.api.put(pod)
		case !mayRun(pod):
			if pod.DeletionTimestamp != nil {
				w.api.remove(pod)
			}
		case len(pod.Status.ContainerStatuses) == 0 && pod.DeletionTimestamp != nil:
			w.api.remove(pod)
		case len(pod.Status.ContainerStatuses) == 0:
			pod.Status.Phase = corev1.PodRunning
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "image-committer", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
			w.api.put(pod)
		default:
			w.runs(pod)
		}
	}
}

// runs is what a program does in the container of a commit or unpause Pod.
func (w *world) runs(pod *corev1.Pod) {
	target := types.UID(pod.Labels[v1alpha1.LabelPodUID])
	end := func(code int32, report string) {
		w.note("node: %s ends with %d %s", pod.Name, code, report)
		pod.Status.Phase = corev1.PodSucceeded
		if code != 0 {
			pod.Status.Phase = corev1.PodFailed
		}
		pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Message: report, FinishedAt: metav1.NewTime(w.now)}}
		w.api.put(pod)
	}
	there := slices.ContainsFunc(w.pods(), func(p *corev1.Pod) bool { return p.UID == target })
	if pod.Labels[v1alpha1.LabelComponent] == unpause {
		if !w.calmed && w.chance(4) {
			end(1, "")
			return
		}
		w.thaws(target)
		end(0, `{"thawed":true}`)
		return
	}
	owner := metav1.GetControllerOf(pod)
	source := w.sources[owner.UID]
	switch {
	case !w.calmed && w.chance(6), w.calmed && !there: // killed, with whatever it has frozen
		end(137, "")
	case pod.DeletionTimestamp != nil, !there:
		w.thaws(target)
		end(1, lastWord)
	case !w.frozen[target]:
		w.note("node: %s freezes Pod %s", pod.Name, target)
		w.frozen[target] = true
	case !w.calmed && w.chance(4):
		w.thaws(target)
		end(1, lastWord)
	default:
		job := w.job(owner.Name)
		if job == nil || !slices.Contains(job.Spec.Template.Spec.Containers[0].Args, "--leave-frozen") {
			w.thaws(target)
		}
		var containers []string
		for _, c := range source.Containers {
			containers = append(containers, fmt.Sprintf(`{"name":%q,"image":%q,"digest":"sha256:abc"}`, c.ContainerName, c.ImageURI))
		}
		end(0, `{"containers":[`+strings.Join(containers, ",")+`],"frozenMillis":1}`)
	}
}

// thaws checks that nothing runs on that was saved to be removed.
func (w *world) thaws(target types.UID) {
	for _, sandbox := range w.sandboxes() {
		pod := w.pod(client.ObjectKeyFromObject(sandbox))
		if w.frozen[target] && sandbox.Status.PodUID == target && sandbox.Status.Phase == v1alpha1.SandboxPausing && pod != nil && pod.UID == target &&
			conditionOf(sandbox.Status.Conditions, v1alpha1.ConditionPaused) == v1alpha1.ReasonRemovingPod {
			w.fail("Pod %s is thawed after it was said that it is removed", target)
		}
	}
	delete(w.frozen, target)
}

func (w *world) loses(pod *corev1.Pod) {
	w.note("node: Pod %s is gone", pod.UID)
	w.api.remove(pod)
	delete(w.frozen, pod.UID)
}

// The sandboxes, as far as their controller has to do with snapshots.

func (w *world) sandboxController() {
	all := w.sandboxes()
	w.control(all[w.rand.IntN(len(all))])
}

func (w *world) control(sandbox *v1alpha1.Sandbox) {
	before := w.api.before
	w.api.before = nil
	defer func() { w.api.before = before }()
	if decided := w.decided[sandbox.Name]; decided != nil {
		delete(w.decided, sandbox.Name)
		if err := w.api.Status().Update(w.t.Context(), decided); err == nil {
			w.note("sandbox %s: its Pod is to be removed", sandbox.Name)
		}
		return
	}
	if sandbox.Status.Phase != v1alpha1.SandboxPausing {
		return
	}
	pod := w.pod(client.ObjectKeyFromObject(sandbox))
	attempt := w.snapshot(client.ObjectKey{Namespace: namespace, Name: naming.PauseSnapshot(sandbox.Name, sandbox.Status.SnapshotAttempts)})
	canceled := w.reason(sandbox) == v1alpha1.ReasonCanceling
	switch {
	case w.reason(sandbox) == v1alpha1.ReasonRemovingPod && pod != nil:
		w.api.leave(w.api.objects[w.api.key(pod, client.ObjectKeyFromObject(pod))])
	case w.reason(sandbox) == v1alpha1.ReasonRemovingPod:
		sandbox.Status.PodUID, sandbox.Status.PodName = "", ""
		w.becomes(sandbox, v1alpha1.SandboxPaused, v1alpha1.ReasonPaused)
	case pod == nil && (attempt == nil || attempt.Status.Phase == v1alpha1.SnapshotFailed || canceled && attempt.Status.Phase == v1alpha1.SnapshotSucceed):
		w.starts(sandbox)
	case attempt == nil && canceled:
		for _, job := range w.jobs() {
			if job.Labels[v1alpha1.LabelPodUID] == string(sandbox.Status.PodUID) && w.snapshotOf(types.UID(job.Labels[v1alpha1.LabelSnapshotUID])) == nil {
				return // what is astray is ended first
			}
		}
		w.becomes(sandbox, v1alpha1.SandboxRunning, v1alpha1.ReasonRunning)
	case attempt == nil:
		w.createsAttempt(sandbox)
	case attempt.Status.Phase == v1alpha1.SnapshotFailed:
		w.becomes(sandbox, v1alpha1.SandboxRunning, v1alpha1.ReasonRunning)
	case attempt.Status.Phase != v1alpha1.SnapshotSucceed:
	case canceled:
		if thawed, _, err := w.r.Jobs.Thaw(w.t.Context(), attempt); err == nil && thawed {
			w.becomes(sandbox, v1alpha1.SandboxRunning, v1alpha1.ReasonRunning)
		}
	case attempt.DeletionTimestamp != nil:
	default:
		sandbox.Status.SnapshotName = attempt.Name
		meta.SetStatusCondition(&sandbox.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionPaused, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonRemovingPod})
		w.decided[sandbox.Name] = sandbox
	}
}

func (w *world) reason(sandbox *v1alpha1.Sandbox) string {
	return conditionOf(sandbox.Status.Conditions, v1alpha1.ConditionPaused)
}

func (w *world) becomes(sandbox *v1alpha1.Sandbox, phase v1alpha1.SandboxPhase, reason string) {
	sandbox.Status.Phase = phase
	meta.SetStatusCondition(&sandbox.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionPaused, Status: metav1.ConditionFalse, Reason: reason})
	w.api.put(sandbox)
	w.note("sandbox %s: %s, %s", sandbox.Name, phase, reason)
}

// createsAttempt creates the snapshot of the attempt under way.
func (w *world) createsAttempt(sandbox *v1alpha1.Sandbox) {
	w.made++
	w.must(w.api.store(attemptOf(sandbox.Name, func(s *v1alpha1.SandboxSnapshot) {
		s.Name = naming.PauseSnapshot(sandbox.Name, sandbox.Status.SnapshotAttempts)
		s.UID = types.UID(fmt.Sprintf("%s-%d", s.Name, w.made))
		s.Spec.Pause.PodUID, s.Spec.Pause.Attempt = sandbox.Status.PodUID, sandbox.Status.SnapshotAttempts
	})))
}

// starts gives a sandbox a new Pod.
func (w *world) starts(sandbox *v1alpha1.Sandbox) {
	w.made++
	uid := types.UID(fmt.Sprintf("%s-pod-%d", sandbox.Name, w.made))
	w.must(w.api.store(podOf(sandbox.Name, func(p *corev1.Pod) { p.UID = uid })))
	sandbox.Status.PodUID, sandbox.Status.PodName = uid, sandbox.Name
	w.becomes(sandbox, v1alpha1.SandboxRunning, v1alpha1.ReasonRunning)
}

// People.

func (w *world) pause() {
	for _, sandbox := range w.sandboxes() {
		if sandbox.Status.Phase == v1alpha1.SandboxRunning && w.chance(2) {
			sandbox.Status.SnapshotAttempts++
			w.becomes(sandbox, v1alpha1.SandboxPausing, v1alpha1.ReasonPausing)
		}
	}
}

func (w *world) cancel() {
	for _, sandbox := range w.sandboxes() {
		if sandbox.Status.Phase == v1alpha1.SandboxPausing && w.reason(sandbox) != v1alpha1.ReasonRemovingPod && w.chance(2) {
			w.becomes(sandbox, v1alpha1.SandboxPausing, v1alpha1.ReasonCanceling)
		}
	}
}

func (w *world) resume() {
	for _, sandbox := range w.sandboxes() {
		if pod := w.pod(client.ObjectKeyFromObject(sandbox)); sandbox.Status.Phase == v1alpha1.SandboxPaused && pod == nil && w.chance(2) {
			w.starts(sandbox)
		}
	}
}

func (w *world) userSnapshot() {
	w.made++
	mine := snapshotOf([]string{"one", "two", "three"}[w.rand.IntN(3)], fmt.Sprintf("mine-%d", w.made))
	if w.chance(2) {
		mine.OwnerReferences = attemptOf(mine.Spec.SandboxName).OwnerReferences
	}
	w.must(w.api.store(mine))
	w.note("user: snapshot %s of %s", mine.Name, mine.Spec.SandboxName)
}

func (w *world) any() *v1alpha1.SandboxSnapshot {
	all := w.snapshots()
	if len(all) == 0 {
		return nil
	}
	return all[w.rand.IntN(len(all))]
}

func (w *world) deleteSnapshot() {
	if snapshot := w.any(); snapshot != nil {
		w.note("user: deletes %s", snapshot.Name)
		w.api.leave(w.api.objects[w.api.key(snapshot, client.ObjectKeyFromObject(snapshot))])
	}
}

func (w *world) editSnapshot() {
	if snapshot := w.any(); snapshot != nil {
		snapshot.OwnerReferences, snapshot.Labels = nil, map[string]string{v1alpha1.LabelSandboxUID: "another"}
		w.api.put(snapshot)
	}
}

// takeFinalizer takes what anybody may take, and now and then by force what nobody may: an administrator can, with
// the store at hand.
func (w *world) takeFinalizer() {
	snapshot := w.any()
	if snapshot == nil || snapshot.DeletionTimestamp == nil {
		return
	}
	free := snapshot.Status.Phase == v1alpha1.SnapshotFailed || PauseOf(snapshot) == nil && snapshot.Status.Phase != v1alpha1.SnapshotCommitting
	sandbox := &v1alpha1.Sandbox{}
	w.must(client.IgnoreNotFound(w.api.read(client.ObjectKey{Namespace: namespace, Name: snapshot.Spec.SandboxName}, sandbox)))
	succeeded := snapshot.Status.Phase == v1alpha1.SnapshotSucceed && IsAttemptOf(snapshot, sandbox) // its Job may be long gone
	if !free && (succeeded || !w.chance(4)) {
		return
	}
	for _, job := range w.jobs() {
		if _, err := commitjob.SourceOf(job); err != nil && job.Labels[v1alpha1.LabelSnapshotUID] == string(snapshot.UID) {
			return // nothing would be left that says what is frozen
		}
	}
	w.note("user: takes the finalizer of %s", snapshot.Name)
	for image, uid := range w.images {
		if uid == snapshot.UID {
			delete(w.images, image) // who does that cleans up himself
		}
	}
	snapshot.Finalizers = nil
	w.api.put(snapshot)
}

// editJob and deleteJob are of somebody with rights in the server's own namespace, of a Job whose snapshot is there.
func (w *world) editJob() {
	if job := w.followed(); job != nil && w.chance(2) {
		w.note("user: edits Job %s", job.Name)
		job.Annotations[v1alpha1.AnnotationSource] = "edited"
		w.api.put(job)
	}
}

func (w *world) deleteJob() {
	if job := w.followed(); job != nil {
		w.note("user: deletes Job %s", job.Name)
		w.api.remove(job)
	}
}

func (w *world) followed() *batchv1.Job {
	for _, job := range w.jobs() {
		snapshot := w.snapshotOf(types.UID(job.Labels[v1alpha1.LabelSnapshotUID]))
		if snapshot != nil && snapshot.Status.JobUID == job.UID && job.Labels[v1alpha1.LabelComponent] == commit && w.chance(2) {
			return job
		}
	}
	return nil
}

func (w *world) losePod() {
	for _, sandbox := range w.sandboxes() {
		if pod := w.pod(client.ObjectKeyFromObject(sandbox)); pod != nil && w.chance(4) {
			w.loses(pod)
		}
	}
}

func (w *world) loseNode() {
	ready := corev1.ConditionTrue
	if w.chance(2) {
		ready = corev1.ConditionUnknown
	}
	w.api.objects["*v1.Node /node-1"] = node("node-1", ready)
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	if w.t.Failed() {
		return
	}
	var state []string
	for _, snapshot := range w.snapshots() {
		state = append(state, fmt.Sprintf("snapshot %s (%s, deleted=%t) %s", snapshot.Name, snapshot.UID, snapshot.DeletionTimestamp != nil, summary(snapshot)))
	}
	for _, sandbox := range w.sandboxes() {
		state = append(state, fmt.Sprintf("sandbox %s %s %s, attempt %d, Pod %s", sandbox.Name, sandbox.Status.Phase, w.reason(sandbox), sandbox.Status.SnapshotAttempts, sandbox.Status.PodUID))
	}
	for _, job := range w.jobs() {
		state = append(state, fmt.Sprintf("Job %s (%s) of %s, ended=%t", job.Name, job.UID, job.Labels[v1alpha1.LabelSnapshotUID], ended(job)))
	}
	for _, pod := range w.pods() {
		state = append(state, fmt.Sprintf("Pod %s (%s) %s on %q", pod.Name, pod.UID, pod.Status.Phase, pod.Spec.NodeName))
	}
	state = append(state, fmt.Sprintf("frozen %v, slots %v", w.frozen, w.r.slots.held))
	w.t.Errorf("seed %d: %s\nstate:\n  %s\npast:\n  %s", w.seed, fmt.Sprintf(format, args...), strings.Join(state, "\n  "), strings.Join(w.past[max(0, len(w.past)-60):], "\n  "))
}
