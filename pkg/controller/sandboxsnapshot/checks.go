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
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

// refusal is why a commit cannot be done: final, for this attempt.
type refusal struct {
	reason, message string
}

func (r *refusal) Error() string { return r.message }

func refuse(reason, format string, args ...any) *refusal {
	return &refusal{reason: reason, message: fmt.Sprintf(format, args...)}
}

// Checks is what a commit needs and can be known without the node.
type Checks struct {
	// Host reads Pods, Secrets, Nodes and RuntimeClasses of the host cluster, uncached.
	Host   client.Reader
	Images *naming.ImageTemplate
	// PushSecret is what pushes use; without a name they are anonymous.
	PushSecret client.ObjectKey
	// Runtimes are the runtime handlers whose files a commit can see.
	Runtimes []string
	// ResumePullSecret is what a resume added to the Pod's own pull secrets.
	ResumePullSecret string
}

// Problem is a thing that a commit would fail for: the reason and message that the snapshot
// would fail with.
type Problem struct{ Reason, Message string }

// Problems are all that stand in the way of the snapshot, those first that a commit would meet
// first. Where there are none, warnings say what the snapshot would not hold that only the Pod
// tells; what its template does was said before. An error says what could not be found out; the
// rest is known nevertheless.
func (c *Checks) Problems(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox) (problems []Problem, warnings []string, err error) {
	source, errs := c.look(ctx, snapshot, sandbox)
	var unknown []error
	for _, err := range errs {
		if why := (*refusal)(nil); errors.As(err, &why) {
			problems = append(problems, Problem{Reason: why.reason, Message: why.message})
		} else {
			unknown = append(unknown, err)
		}
	}
	if source != nil {
		for _, warning := range source.Warnings {
			if warning.Reason != v1alpha1.ReasonMountNotKept {
				warnings = append(warnings, warning.Message)
			}
		}
	}
	return problems, warnings, errors.Join(unknown...)
}

func (r *Reconciler) checks() *Checks {
	return &Checks{
		Host:             r.HostLive,
		Images:           r.Images,
		PushSecret:       client.ObjectKey{Namespace: r.Jobs.Namespace, Name: r.Jobs.PushSecret},
		Runtimes:         r.Runtimes,
		ResumePullSecret: r.ResumePullSecret,
	}
}

// source returns what is to be committed. A *refusal is final; any other error is worth another
// try.
func (r *Reconciler) source(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox) (*commitjob.Source, error) {
	source, errs := r.checks().look(ctx, snapshot, sandbox)
	if len(errs) > 0 {
		return nil, errs[0]
	}
	for i := range source.Containers {
		source.Containers[i].ImageURI = r.reference(snapshot, source.Containers[i].ContainerName)
	}
	return source, nil
}

// look returns what is to be committed, or everything that is in the way.
func (c *Checks) look(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox) (*commitjob.Source, []error) {
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	if !c.Images.Configured() {
		note(refuse(v1alpha1.ReasonRegistryNotConfigured, "the server has no registry to push to: start it with --snapshot-registry"))
	}
	note(c.checkPushSecret(ctx))
	pod, err := c.sourcePod(ctx, snapshot, sandbox)
	if err != nil {
		// Without the Pod there is nothing more to be known.
		return nil, append(errs, err)
	}
	note(c.checkRuntime(ctx, pod))
	note(c.checkNode(ctx, pod.Spec.NodeName))
	containers, problems := chooseContainers(snapshot, sandbox, pod)
	note(c.checkNames(snapshot, containers))
	if errs = append(errs, problems...); len(errs) > 0 {
		return nil, errs
	}
	keepResources(containers, sandbox, pod)
	return &commitjob.Source{PodName: pod.Name, PodUID: pod.UID, NodeName: pod.Spec.NodeName, Containers: containers, Bears: commitjob.Bears(pod),
		Ended: endedContainers(snapshot, containers), Rescue: RescueOf(snapshot) != nil,
		PullSecrets: pullSecretsOf(pod, c.ResumePullSecret), Warnings: notKept(pod, sandbox, containers)}, nil
}

// checkNames refuses images of names that no registry takes: the commit would find out on the
// node, again and again.
func (c *Checks) checkNames(snapshot *v1alpha1.SandboxSnapshot, containers []v1alpha1.ContainerSnapshot) error {
	if !c.Images.Configured() {
		return nil
	}
	for i := range containers {
		if err := c.Images.Check(imageOf(snapshot, containers[i].ContainerName)); err != nil {
			return refuse(v1alpha1.ReasonImageNameInvalid, "%v", err)
		}
	}
	return nil
}

func (c *Checks) checkPushSecret(ctx context.Context) error {
	key := c.PushSecret
	if key.Name == "" {
		return nil
	}
	secret := &corev1.Secret{}
	if err := c.Host.Get(ctx, key, secret); err != nil {
		if apierrors.IsNotFound(err) {
			return refuse(v1alpha1.ReasonPushSecretNotFound, "Secret %s (--snapshot-push-secret) does not exist: create it as kubernetes.io/dockerconfigjson", key)
		}
		return fmt.Errorf("read Secret %s: %w", key, err)
	}
	if secret.Type != corev1.SecretTypeDockerConfigJson {
		return refuse(v1alpha1.ReasonPushSecretInvalid, "Secret %s (--snapshot-push-secret) is of type %q, it must be %q: create it with kubectl create secret docker-registry", key, secret.Type, corev1.SecretTypeDockerConfigJson)
	}
	// What is wrong with the content is not repeated: the content is secret.
	if !json.Valid(secret.Data[corev1.DockerConfigJsonKey]) {
		return refuse(v1alpha1.ReasonPushSecretInvalid, "Secret %s (--snapshot-push-secret) holds no JSON under %s", key, corev1.DockerConfigJsonKey)
	}
	return nil
}

// sourcePod is the Pod to commit, and no other of its name. One that somebody deletes is committed for a pause, which
// is to remove it: what still runs there is all that there will ever be.
func (c *Checks) sourcePod(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox) (*corev1.Pod, error) {
	uid := sourcePodUID(snapshot, sandbox)
	if uid == "" || sandbox.Status.PodUID == "" {
		return nil, refuse(v1alpha1.ReasonSourcePodNotFound, "sandbox %s has no Pod (phase %s)", sandbox.Name, sandbox.Status.Phase)
	}
	pod := &corev1.Pod{}
	if err := c.Host.Get(ctx, client.ObjectKey{Namespace: sandbox.Namespace, Name: sandbox.Status.PodName}, pod); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, refuse(v1alpha1.ReasonSourcePodNotFound, "Pod %s does not exist any more", sandbox.Status.PodName)
		}
		return nil, fmt.Errorf("read Pod %s/%s: %w", sandbox.Namespace, sandbox.Status.PodName, err)
	}
	if pod.UID != uid || pod.Labels[v1alpha1.LabelSandboxUID] != string(sandbox.UID) {
		return nil, refuse(v1alpha1.ReasonSourcePodReplaced, "Pod %s has UID %s, but the sandbox ran in the one with UID %s", pod.Name, pod.UID, uid)
	}
	if pod.DeletionTimestamp != nil && PauseOf(snapshot) == nil && RescueOf(snapshot) == nil { // what has ended is there as long as something runs
		return nil, refuse(v1alpha1.ReasonSourcePodNotFound, "Pod %s is being deleted", pod.Name)
	}
	if pod.Spec.NodeName == "" {
		return nil, refuse(v1alpha1.ReasonSourcePodNotFound, "Pod %s has not been scheduled yet", pod.Name)
	}
	return pod, nil
}

// checkRuntime refuses runtimes that keep files where no upperdir shows them: a commit of those
// would succeed and hold nothing. A Pod without a runtime class is looked at by the committer.
func (c *Checks) checkRuntime(ctx context.Context, pod *corev1.Pod) error {
	if pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName == "" {
		return nil
	}
	class := &nodev1.RuntimeClass{}
	if err := c.Host.Get(ctx, client.ObjectKey{Name: *pod.Spec.RuntimeClassName}, class); err != nil {
		if apierrors.IsNotFound(err) {
			return refuse(v1alpha1.ReasonRuntimeNotSupported, "RuntimeClass %s of Pod %s does not exist, so its handler is not known", *pod.Spec.RuntimeClassName, pod.Name)
		}
		return fmt.Errorf("read RuntimeClass %s: %w", *pod.Spec.RuntimeClassName, err)
	}
	if !slices.Contains(c.Runtimes, class.Handler) {
		return refuse(v1alpha1.ReasonRuntimeNotSupported, "Pod %s runs under runtime handler %q, whose files cannot be committed: --commit-runtimes has %q", pod.Name, class.Handler, c.Runtimes)
	}
	return nil
}

func (c *Checks) checkNode(ctx context.Context, name string) error {
	node := &corev1.Node{}
	if err := c.Host.Get(ctx, client.ObjectKey{Name: name}, node); err != nil {
		if apierrors.IsNotFound(err) {
			return refuse(v1alpha1.ReasonSourceNodeLost, "node %s does not exist any more", name)
		}
		return fmt.Errorf("read Node %s: %w", name, err)
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
			return refuse(v1alpha1.ReasonSourceNodeLost, "node %s is not ready: %s: %s", name, condition.Reason, condition.Message)
		}
		// Admit of pkg/kubelet/eviction in Kubernetes. One that lacks memory takes Pods that are not BestEffort, as a commit's.
		if (condition.Type == corev1.NodeDiskPressure || condition.Type == corev1.NodePIDPressure) && condition.Status == corev1.ConditionTrue {
			return refuse(v1alpha1.ReasonNodeUnderPressure, "the kubelet of node %s takes no Pod, and so none that commits, while it has %s: %s; make room there",
				name, condition.Type, condition.Message)
		}
	}
	return nil
}

// chooseContainers are the containers to commit with their runtime IDs: those that the snapshot
// names, else those that the sandbox names, else all of the template's, native sidecars among them
// (and so none that something else injected into the Pod). It tells of each that cannot be committed.
func chooseContainers(snapshot *v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox, pod *corev1.Pod) ([]v1alpha1.ContainerSnapshot, []error) {
	names := snapshot.Spec.Containers
	if rescue := RescueOf(snapshot); rescue != nil {
		names = nil
		for _, container := range rescue.Containers {
			names = append(names, container.ContainerName)
		}
	}
	if len(names) == 0 {
		names = sandbox.Spec.Snapshot.Containers
	}
	if len(names) == 0 && sandbox.Spec.Template != nil {
		names = contents.Names(&sandbox.Spec.Template.Spec)
	}
	if len(names) == 0 {
		return nil, []error{refuse(v1alpha1.ReasonNoContainers, "there is no container to commit: neither the snapshot nor the sandbox names one")}
	}
	chosen := make([]v1alpha1.ContainerSnapshot, 0, len(names))
	var problems []error
	for _, name := range names {
		id, err := idOf(snapshot, pod, name)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		chosen = append(chosen, v1alpha1.ContainerSnapshot{ContainerName: name, ContainerID: id})
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return chosen, nil
}

// keepResources notes how the containers were resized, where they were.
func keepResources(containers []v1alpha1.ContainerSnapshot, sandbox *v1alpha1.Sandbox, pod *corev1.Pod) {
	if sandbox.Spec.Template == nil {
		return
	}
	for _, container := range contents.Containers(&sandbox.Spec.Template.Spec) {
		if at := slices.IndexFunc(containers, func(c v1alpha1.ContainerSnapshot) bool { return c.ContainerName == container.Name }); at >= 0 {
			containers[at].Resources = contents.Resized(container, pod)
		}
	}
}

func containerID(pod *corev1.Pod, name string) (string, error) {
	if slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == name && !contents.IsSidecar(&c) }) {
		return "", refuse(v1alpha1.ReasonContainerNotFound, "container %s of Pod %s is an init container that runs to its end, which a snapshot does not hold: only those with restartPolicy Always can be committed", name, pod.Name)
	}
	statuses := contents.Statuses(pod)
	at := slices.IndexFunc(statuses, func(status *corev1.ContainerStatus) bool { return status.Name == name })
	if at < 0 || statuses[at].ContainerID == "" {
		return "", refuse(v1alpha1.ReasonContainerNotFound, "container %s of Pod %s has not been started", name, pod.Name)
	}
	runtime, id, ok := strings.Cut(statuses[at].ContainerID, "://")
	if !ok || runtime != "containerd" {
		return "", refuse(v1alpha1.ReasonRuntimeNotSupported, "container %s of Pod %s is run by %q: only containerd's can be committed", name, pod.Name, runtime)
	}
	return id, nil
}
