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

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

// nodes pretend: they are the scheduler, the kubelets and the Job controller of a cluster without
// a single machine. What the server sees of them is real: objects, written through the API.
type nodes struct {
	kube  kubernetes.Interface
	count int
	// commitTime is how long a commit's container runs.
	commitTime time.Duration
	// digest is the image that every commit reports.
	digest  string
	commits *commitLog

	queue workqueue.TypedRateLimitingInterface[cache.ObjectName]
	pods  corelisters.PodLister
	jobs  batchlisters.JobLister
	// kubelet is the port of what answers for the kubelets.
	kubelet int32
	// killed has the UIDs of commit Pods in which a kill has run.
	killed sync.Map
}

// ownGrace is what a sandbox's Pod asks for, in seconds: whoever gets more is frozen.
const ownGrace = 2

// nodeWorkers is how many objects are advanced at a time.
const nodeWorkers = 16

func nodeName(number int) string { return fmt.Sprintf("node-%03d", number) }

// start makes the Node objects and advances Pods and Jobs until ctx ends.
func (n *nodes) start(ctx context.Context) error {
	if err := n.startKubelet(ctx); err != nil {
		return err
	}
	for number := range n.count {
		if err := n.createNode(ctx, nodeName(number)); err != nil {
			return err
		}
	}
	n.queue = workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[cache.ObjectName](10*time.Millisecond, 5*time.Second))
	factory := informers.NewSharedInformerFactory(n.kube, 0)
	pods, jobs := factory.Core().V1().Pods(), factory.Batch().V1().Jobs()
	n.pods, n.jobs = pods.Lister(), jobs.Lister()
	if _, err := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { n.queue.Add(nameOf(o)) },
		UpdateFunc: func(_, o any) { n.queue.Add(nameOf(o)) },
	}); err != nil {
		return err
	}
	if _, err := jobs.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(o any) {
		job := o.(*batchv1.Job)
		if job.Labels[v1alpha1.LabelComponent] == commitjob.ComponentCommit {
			n.commits.starts(job.UID, job.Annotations[v1alpha1.AnnotationNamespace], required(job.Spec.Template.Spec.Affinity))
		}
		n.queue.Add(nameOf(o))
	}}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return fmt.Errorf("the %v of the pretended nodes are not known", kind)
		}
	}
	for range nodeWorkers {
		go n.work(ctx)
	}
	go func() {
		<-ctx.Done()
		n.queue.ShutDown()
	}()
	return nil
}

func nameOf(object any) cache.ObjectName {
	meta := object.(metav1.Object)
	return cache.NewObjectName(meta.GetNamespace(), meta.GetName())
}

func (n *nodes) createNode(ctx context.Context, name string) error {
	many := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("1000")}
	node, err := n.kube.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make node %s: %w", name, err)
	}
	node.Status = corev1.NodeStatus{
		Capacity: many, Allocatable: many,
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: n.kubelet}},
		Conditions:      []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}},
	}
	if _, err := n.kube.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("make node %s ready: %w", name, err)
	}
	return nil
}

func (n *nodes) work(ctx context.Context) {
	for {
		name, stop := n.queue.Get()
		if stop {
			return
		}
		switch err := n.advance(ctx, name); {
		case err == nil:
			n.queue.Forget(name)
		case ctx.Err() == nil:
			n.queue.AddRateLimited(name)
		}
		n.queue.Done(name)
	}
}

// advance takes the Pod or Job of a name one step on. A Job and its Pod do not share a name.
func (n *nodes) advance(ctx context.Context, name cache.ObjectName) error {
	if name.Namespace == systemNamespace {
		if job, err := n.jobs.Jobs(name.Namespace).Get(name.Name); err == nil {
			return n.createPodOf(ctx, job)
		}
	}
	pod, err := n.pods.Pods(name.Namespace).Get(name.Name)
	if err != nil {
		return nil //nolint:nilerr // gone: there is nothing to do
	}
	component := pod.Labels[v1alpha1.LabelComponent]
	switch {
	case pod.DeletionTimestamp != nil && *pod.DeletionGracePeriodSeconds > ownGrace:
		return nil // frozen: it goes with its kill
	case pod.DeletionTimestamp != nil:
		return gone(n.kube.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: ptr.To[int64](0), Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
		}))
	case pod.Spec.NodeName == "":
		return n.bind(ctx, pod)
	case pod.Status.Phase == corev1.PodPending:
		return n.run(ctx, pod)
	case pod.Status.Phase == corev1.PodRunning && component == commitjob.ComponentCommit:
		return n.commit(ctx, pod)
	case pod.Status.Phase == corev1.PodRunning && component == commitjob.ComponentUnpause:
		return n.thawed(ctx, pod)
	case pod.Status.Phase == corev1.PodSucceeded && component != "":
		n.killed.Delete(pod.UID)
		return n.completeJobOf(ctx, pod)
	}
	return nil
}

// gone is nil also where another was faster.
func gone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// bind is the scheduler's part: a node that the Pod's name gives.
func (n *nodes) bind(ctx context.Context, pod *corev1.Pod) error {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(pod.Namespace + "/" + pod.Name))
	return gone(n.kube.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: nodeName(int(hash.Sum32()) % n.count)},
	}, metav1.CreateOptions{}))
}

// required is the node that an affinity asks for by name.
func required(affinity *corev1.Affinity) string {
	if affinity == nil || affinity.NodeAffinity == nil || affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, field := range term.MatchFields {
			if field.Key == metav1.ObjectNameField && len(field.Values) == 1 {
				return field.Values[0]
			}
		}
	}
	return ""
}

// run is the kubelet's part: every container runs and is ready.
func (n *nodes) run(ctx context.Context, pod *corev1.Pod) error {
	now := metav1.Now()
	status := corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &now, HostIP: "10.0.0.1", HostIPs: []corev1.HostIP{{IP: "10.0.0.1"}},
		PodIP: addressOf(pod.UID), PodIPs: []corev1.PodIP{{IP: addressOf(pod.UID)}},
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		status.Conditions = append(status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	for _, container := range pod.Spec.Containers {
		id := strings.ReplaceAll(string(pod.UID), "-", "")
		status.ContainerStatuses = append(status.ContainerStatuses, corev1.ContainerStatus{
			Name: container.Name, Image: container.Image, ImageID: container.Image,
			Ready: true, Started: ptr.To(true), ContainerID: "containerd://" + id + id,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		})
	}
	return n.writeStatus(ctx, pod, status)
}

func addressOf(uid types.UID) string {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(uid))
	sum := hash.Sum32()
	return fmt.Sprintf("10.%d.%d.%d", 128+sum>>16&63, sum>>8&255, sum&255)
}

// commit lets the container of a commit end, with the report of a committer, when its time is over.
func (n *nodes) commit(ctx context.Context, pod *corev1.Pod) error {
	if pod.Status.ContainerStatuses[0].State.Terminated != nil {
		if _, killed := n.killed.Load(pod.UID); !killed {
			return nil // it stands by
		}
		return n.thawed(ctx, pod)
	}
	if left := n.commitTime - time.Since(pod.Status.StartTime.Time); left > 0 {
		n.queue.AddAfter(nameOf(pod), left)
		return nil
	}
	report, err := n.report(pod)
	if err != nil {
		return err
	}
	// Noted before it can be seen: the server may start another at once.
	n.commits.ends(metav1.GetControllerOf(pod).UID)
	return n.end(ctx, pod, 0, report)
}

// kill is the end of the Pod whose containers a commit left frozen, and then of what stood by beside it.
func (n *nodes) kill(ctx context.Context, commit *corev1.Pod, uid string) error {
	if err := gone(n.kube.CoreV1().Pods(commit.Annotations[v1alpha1.AnnotationNamespace]).Delete(ctx, commit.Labels[v1alpha1.LabelSandbox], metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To[int64](0), Preconditions: metav1.NewUIDPreconditions(uid),
	})); err != nil {
		return err
	}
	n.killed.Store(commit.UID, true)
	n.queue.Add(nameOf(commit))
	return nil
}

// thawed lets the last container end of a Pod that has left nothing frozen.
func (n *nodes) thawed(ctx context.Context, pod *corev1.Pod) error {
	report, err := result.Result{Thawed: true}.Encode()
	if err != nil {
		return err
	}
	return n.end(ctx, pod, len(pod.Spec.Containers)-1, string(report))
}

// end is the end of a container that reports something, and of the Pod with its last one.
func (n *nodes) end(ctx context.Context, pod *corev1.Pod, container int, report string) error {
	status := *pod.Status.DeepCopy()
	its := &status.ContainerStatuses[container]
	its.Ready, its.Started = false, ptr.To(false)
	its.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		Reason: "Completed", Message: report, StartedAt: *pod.Status.StartTime, FinishedAt: metav1.Now(), ContainerID: its.ContainerID,
	}}
	if container == len(status.ContainerStatuses)-1 {
		status.Phase = corev1.PodSucceeded
	}
	return n.writeStatus(ctx, pod, status)
}

// report is what image-committer says of the containers that its Job was made for.
func (n *nodes) report(pod *corev1.Pod) (string, error) {
	owner := metav1.GetControllerOf(pod)
	job, err := n.jobs.Jobs(pod.Namespace).Get(owner.Name)
	if err != nil {
		return "", err
	}
	var source struct {
		Containers []v1alpha1.ContainerSnapshot `json:"containers"`
	}
	if err := json.Unmarshal([]byte(job.Annotations[v1alpha1.AnnotationSource]), &source); err != nil {
		return "", fmt.Errorf("read what Job %s commits: %w", job.Name, err)
	}
	report := result.Result{FrozenMillis: n.commitTime.Milliseconds()}
	for i := range source.Containers {
		report.Containers = append(report.Containers, result.Container{
			Name: source.Containers[i].ContainerName, Image: source.Containers[i].ImageURI, Digest: n.digest, LayerBytes: 1 << 20, Layers: 1,
		})
	}
	message, err := report.Encode()
	return string(message), err
}

func (n *nodes) writeStatus(ctx context.Context, pod *corev1.Pod, status corev1.PodStatus) error {
	pod = pod.DeepCopy()
	pod.Status = status
	_, err := n.kube.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return gone(err)
}

// createPodOf is the Job controller's part. A commit's Pod says where it must go, so the scheduler
// is spared.
func (n *nodes) createPodOf(ctx context.Context, job *batchv1.Job) error {
	if job.Status.CompletionTime != nil || job.DeletionTimestamp != nil {
		return nil
	}
	spec := job.Spec.Template.Spec.DeepCopy()
	spec.NodeName = required(spec.Affinity)
	_, err := n.kube.CoreV1().Pods(job.Namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: job.Namespace, Name: job.Name + "-" + string(job.UID[:5]),
			Labels: job.Spec.Template.Labels, Annotations: job.Spec.Template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))},
		},
		Spec: *spec,
	}, metav1.CreateOptions{})
	return gone(err)
}

func (n *nodes) completeJobOf(ctx context.Context, pod *corev1.Pod) error {
	job, err := n.jobs.Jobs(pod.Namespace).Get(metav1.GetControllerOf(pod).Name)
	if err != nil || job.Status.CompletionTime != nil {
		return nil //nolint:nilerr // gone: there is nothing to do
	}
	job = job.DeepCopy()
	now := metav1.Now()
	job.Status = batchv1.JobStatus{StartTime: pod.Status.StartTime, CompletionTime: &now, Succeeded: 1, UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{}}
	for _, kind := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete} {
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{
			Type: kind, Status: corev1.ConditionTrue, Reason: batchv1.JobReasonCompletionsReached, LastProbeTime: now, LastTransitionTime: now,
		})
	}
	_, err = n.kube.BatchV1().Jobs(job.Namespace).UpdateStatus(ctx, job, metav1.UpdateOptions{})
	return gone(err)
}
