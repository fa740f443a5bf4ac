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
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

const (
	// program is where the committer's image has it: an exec and a hook know no entrypoint.
	program = "/image-committer"
	// killTimeout is how long a kill may take. It takes a fraction of a second, and seconds where a
	// disk is slow on which something is kept for the resume.
	killTimeout = 10 * time.Second
	// killAnswer is how much of that it needs to say why it gives up.
	killAnswer = 2 * time.Second
	// killLock is a file that whatever runs in a container finds there: where the kubelet reads its result.
	killLock = corev1.TerminationMessagePathDefault
	// maxFault bounds what is told of an answer, in bytes: an event holds 1,024, and a proxy may answer with a page.
	maxFault = 700
	// podUIDVariable is an environment variable that the program there looks at.
	podUIDVariable = "POD_UID"
	// awaitTime is how long the kubelet is kept from telling that the Pod runs: no longer than a commit
	// takes beside which the second counts that it may take to see its end.
	awaitTime = 3 * time.Second
)

// Executor runs a program in a container, and returns the beginning of what it has written. It fails
// where the program did not run or ended badly.
type Executor interface {
	Exec(ctx context.Context, pod types.NamespacedName, container string, command []string) (stdout, stderr string, err error)
}

// addStandby gives a commit Pod the container which thaws what the commit has frozen where that could not do so itself,
// because it was killed: a new Pod may find no room on the node, or be refused there. Where the commit leaves
// containers frozen, it is also where they are killed, and thaws them where nobody comes. The kubelet starts containers in
// their order, and so this one while the commit is at work.
func (c *Config) addStandby(pod *corev1.PodSpec, source *Source, leaveFrozen bool) {
	kill := c.container(killName)
	if leaveFrozen {
		// The processes are signalled one by one, by the kernel's PIDs; they may belong to any user.
		kill.SecurityContext.Capabilities.Add = []corev1.Capability{"KILL"}
	}
	kill.Env = []corev1.EnvVar{{Name: podUIDVariable, ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.uid"},
	}}}
	kill.Args = append([]string{
		"standby", "--commit=" + containerName, "--lock=" + killLock,
		"--thaw-after=" + c.thawAfter().String(), "--timeout=" + (c.Timeout + c.standbyTime()).String(),
	}, c.sourceArgs(source, false)...)
	if !leaveFrozen {
		kill.Args = append(kill.Args, commitThaws)
	}
	// The kubelet looks at a Pod's containers when it has started the last, and has run what comes after
	// that start; then once a second.
	kill.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{
		program, "await", "--containerd-address=" + c.ContainerdSocket, "--commit=" + containerName, "--lock=" + killLock,
		"--within=" + awaitTime.String(), "--termination-log=-",
	}}}}
	shares := []string{socketVolume, cgroupVolume}
	if leaveFrozen && c.ResumeCache > 0 {
		kill.SecurityContext.Capabilities.Add = append(kill.SecurityContext.Capabilities.Add, readCapabilities...)
		shares = append(shares, rootVolume)
	}
	for _, mount := range pod.Containers[0].VolumeMounts {
		if slices.Contains(shares, mount.Name) {
			kill.VolumeMounts = append(kill.VolumeMounts, mount)
		}
	}
	pod.Containers = append(pod.Containers, kill)
}

// commitThaws says that a commit leaves nothing frozen where it succeeds.
const commitThaws = "--commit-thaws"

// onlyGuards says whether who stands beside the commit of a Pod is there only for the case that it fails.
func onlyGuards(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == killName && slices.Contains(c.Args, commitThaws) })
}

// killCommand is what runs in that container.
func (c *Config) killCommand(snapshot *v1alpha1.SandboxSnapshot) []string {
	source := SourceIn(snapshot)
	command := append([]string{
		program, "kill", "--termination-log=-", "--lock=" + killLock, "--timeout=" + (killTimeout - killAnswer).String(),
	}, c.sourceArgs(source, false)...)
	if c.ResumeCache > 0 {
		command = append(command, c.cacheArgs(snapshot, source)...)
	}
	return command
}

// cacheArgs are what a kill needs to keep the images on the node. One that a resume could not ask
// for is not kept.
func (c *Config) cacheArgs(snapshot *v1alpha1.SandboxSnapshot, source *Source) []string {
	args := []string{
		fmt.Sprintf("--resume-cache=%d", c.ResumeCache),
		"--containerd-root=" + c.ContainerdRoot,
		"--sandbox-uid=" + string(snapshot.Status.SandboxUID),
		"--snapshot-uid=" + string(snapshot.UID),
	}
	for _, container := range source.Containers {
		if image, err := naming.ByDigest(container.ImageURI, container.ImageDigest); err == nil {
			args = append(args, "--keep="+container.ContainerName+"="+image)
		}
	}
	return args
}

// Standby says whether the container is there in which what a snapshot's commit left frozen can be
// killed, as the cache shows it: Active where it is, or will be, and Succeeded where it has ended
// because nothing is frozen any more.
func (r *Runner) Standby(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (Outcome, error) {
	pod, err := r.committed(ctx, snapshot)
	if err != nil {
		return Outcome{}, err
	}
	if pod == nil {
		return noKill("the commit Pod is gone, and with it the container to do it in"), nil
	}
	outcome := ofPod(pod, killName)
	if outcome.State == Active && pod.DeletionTimestamp != nil {
		return noKill("the commit Pod is being deleted, and with it the container to do it in"), nil
	}
	return outcome, nil
}

// Kill ends what a snapshot's commit left frozen, in the container beside it. It may only be called
// once the frozen Pod is being deleted: the kubelet would start its containers again otherwise. It
// takes at most killTimeout, and can be repeated. Whatever comes in the way is an outcome.
func (r *Runner) Kill(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) Outcome {
	ctx, cancel := context.WithTimeoutCause(ctx, killTimeout, fmt.Errorf("no answer came within %s", killTimeout))
	defer cancel()
	pod, err := r.committed(ctx, snapshot)
	switch {
	case err != nil:
		return noKill(err.Error())
	case pod == nil:
		return noKill("the commit Pod is gone")
	}
	said, logged, err := r.Exec.Exec(ctx, client.ObjectKeyFromObject(pod), killName, r.killCommand(snapshot))
	outcome := ofKill(said, err)
	logger := log.FromContext(ctx).WithValues("snapshot", client.ObjectKeyFromObject(snapshot), "pod", client.ObjectKeyFromObject(pod))
	switch {
	case outcome.State == Succeeded:
		logger.V(2).Info("What a commit left frozen is killed", "log", logged)
	case !errors.Is(err, context.Canceled): // or this process ends, and the next asks again
		logger.Info("What a commit left frozen could not be killed", "why", outcome.Message, "log", logged)
	}
	return outcome
}

// ofKill reads what a kill has written, which says more than how it ended.
func ofKill(said string, err error) Outcome {
	reported, unreadable := result.Decode([]byte(said))
	switch {
	case unreadable == nil && reported.Error != nil:
		return noKill(reported.Error.Message)
	case unreadable == nil && reported.Thawed:
		// Whatever came after: a connection that broke, say.
		return Outcome{State: Succeeded, Thawed: true}
	case err != nil:
		return noKill(err.Error())
	case unreadable != nil:
		return noKill(fmt.Sprintf("the kill has left no readable report: %v", unreadable))
	}
	return noKill("the kill does not say that nothing is frozen any more")
}

func noKill(why string) Outcome {
	if len(why) > maxFault {
		why = strings.ToValidUTF8(why[:maxFault], "") + "…"
	}
	return Outcome{State: Failed, Reason: v1alpha1.ReasonCommitJobFailed, Message: why}
}

// committed is the Pod of a snapshot's commit Job, nil where it is gone, which is believed only live.
func (r *Runner) committed(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (*corev1.Pod, error) {
	for _, list := range []func(context.Context, *v1alpha1.SandboxSnapshot, string) ([]corev1.Pod, error){r.cachedPods, r.livePods} {
		pods, err := list(ctx, snapshot, ComponentCommit)
		if err != nil {
			return nil, err
		}
		for i := range pods {
			if owner := metav1.GetControllerOf(&pods[i]); owner != nil && owner.UID == snapshot.Status.JobUID {
				return &pods[i], nil
			}
		}
	}
	return nil, nil
}
