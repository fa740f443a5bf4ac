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

// Package commitjob makes the Jobs that commit a Pod's containers, and kill or thaw them then, and
// reads what they report.
package commitjob

import (
	"encoding/json"
	"fmt"
	"path"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

// Values of the label v1alpha1.LabelComponent.
const (
	ComponentCommit  = "commit"
	ComponentUnpause = "unpause"
	ComponentUncache = "uncache"
)

const (
	// timeToLive keeps a finished Job for whoever wants to read its log.
	timeToLive = 5 * time.Minute
	// startupAllowance is how long a commit Pod may take to be scheduled, pull its image and
	// start, on top of the commit's own timeout, which counts from the container's start.
	startupAllowance = 5 * time.Minute
	// unpauseTimeout bounds the run of an unpause container; thawing takes milliseconds.
	unpauseTimeout = time.Minute
	// DefaultThawAfter is Config.ThawAfter where that is 0.
	DefaultThawAfter = 5 * time.Minute
	// memoryLimit is twice what a commit takes at most (TestMemory of pkg/committer), because the kernel counts the
	// file system's caches too.
	memoryLimit = "256Mi"
	// stopGrace is what a committer has to thaw and to report when it is told to stop.
	stopGrace = 30 * time.Second

	// KillGrace is what a Pod whose containers are frozen gets to end, while they are to be killed.
	// If that does not happen, the kubelet kills them then, and thaws them for it.
	KillGrace = 30 * time.Second

	containerName = "image-committer"
	killName      = "kill"
	// ServiceAccount is the service account of all these Pods.
	ServiceAccount = "image-committer"
	configDir      = "/etc/image-committer/registry"
	caDir          = "/etc/image-committer/ca"
	caFile         = "ca.crt"
	socketVolume   = "containerd-socket"
	rootVolume     = "containerd-root"
	spoolDir       = "/var/spool/image-committer"
	cgroupVolume   = "cgroup"
	cgroupRoot     = "/sys/fs/cgroup"
	// cgroupDir is where they are in the Pod: at /sys/fs/cgroup it has its own.
	cgroupDir = "/host/sys/fs/cgroup"
)

// How layers may be compressed.
const (
	Zstd = "zstd"
	Gzip = "gzip"
)

// Config is what all Jobs have in common.
type Config struct {
	// Namespace is where Jobs run: never a sandbox's own, because whoever may exec into a
	// commit Pod owns the node.
	Namespace string
	// Image is the committer's image.
	Image string
	// Timeout bounds a commit, counted from the start of its container.
	Timeout time.Duration
	// ThawAfter is how long after a commit, or after the last claim, what it left frozen is thawed on its
	// node, where nobody has come to remove the Pod.
	ThawAfter time.Duration
	// MaxFrozen is for how long a commit may keep containers frozen; 0 is what the Pod bears.
	MaxFrozen time.Duration
	// MaxHoles is how many bytes of holes the sparse files of a container may have; 0 is no limit.
	MaxHoles int64
	// PriorityClass is that of all Pods here, or empty: the cluster's default.
	PriorityClass string
	// ContainerdSocket and ContainerdRoot are paths on the nodes.
	ContainerdSocket, ContainerdRoot string
	// PushSecret is a Secret of type kubernetes.io/dockerconfigjson of Namespace, or empty.
	PushSecret string
	// RegistryCA is a ConfigMap of Namespace with the key ca.crt, or empty.
	RegistryCA string
	// ResumeCache is how many bytes of images of paused sandboxes a node may keep for their
	// resume; 0 keeps nothing.
	ResumeCache int64
	// RegistryInsecure allows plain HTTP and certificates that do not verify.
	RegistryInsecure bool
	// BaseRepository is a repository of the registry that keeps the layers of base images, so that the next sandbox of
	// one need not upload them; or empty.
	BaseRepository string
	// LayerCompression is Zstd (or empty) or Gzip.
	LayerCompression string
	// Proxy are the environment variables that commits reach the registry by.
	Proxy []corev1.EnvVar
	// HostNetwork lets commits use the node's network: for registries that the node alone reaches.
	HostNetwork bool
	// RegistryOfNode is that the registry's address means another one on each node, and none here.
	RegistryOfNode bool
}

// Source is what a commit Job commits. It is recorded in the Job, so that a controller that
// crashed after it created the Job reports what is really being committed.
type Source struct {
	PodName    string                       `json:"podName"`
	PodUID     types.UID                    `json:"podUID"`
	NodeName   string                       `json:"nodeName"`
	Containers []v1alpha1.ContainerSnapshot `json:"containers"`
	// Bears is for how long the Pod may be frozen; 0 is for as long as it takes.
	Bears metav1.Duration `json:"bears,omitzero"`
	// PullSecrets are the names of the Pod's image pull secrets.
	PullSecrets []string `json:"pullSecrets,omitempty"`
	// Ended are the names of those containers that are committed as they have ended: their IDs are not those of what runs
	// in their place. Rescue says that nothing is but such containers, and nothing frozen.
	Ended  []string `json:"ended,omitempty"`
	Rescue bool     `json:"rescue,omitempty"`
	// Warnings are what the commit cannot keep, as far as it is known without the node.
	Warnings []v1alpha1.SnapshotWarning `json:"warnings,omitempty"`
}

// SourceOf reads the source that a commit Job was made for.
func SourceOf(job *batchv1.Job) (*Source, error) {
	source := &Source{}
	if err := json.Unmarshal([]byte(job.Annotations[v1alpha1.AnnotationSource]), source); err != nil {
		return nil, fmt.Errorf("annotation %s of Job %s/%s: %w", v1alpha1.AnnotationSource, job.Namespace, job.Name, err)
	}
	return source, nil
}

// SourceIn is the source that a snapshot's status records.
func SourceIn(snapshot *v1alpha1.SandboxSnapshot) *Source {
	return &Source{
		PodName:    snapshot.Status.SourcePodName,
		PodUID:     snapshot.Status.SourcePodUID,
		NodeName:   snapshot.Status.SourceNodeName,
		Containers: snapshot.Status.Containers,
	}
}

// Commit is the Job that commits the source for a snapshot. With leaveFrozen the containers
// stay frozen on success, so that no write can be lost before the Pod is removed. Its Pod has a
// second container, which thaws where the first could not, and in which Runner.Kill ends what stays frozen.
func (c *Config) Commit(snapshot *v1alpha1.SandboxSnapshot, source *Source, leaveFrozen bool) *batchv1.Job {
	args := append([]string{"commit", "--snapshot-uid=" + string(snapshot.UID)}, c.sourceArgs(source, true)...)
	for _, name := range source.Ended {
		args = append(args, "--ended="+name)
	}
	args = append(args, "--timeout="+c.Timeout.String())
	maxFrozen := c.MaxFrozen
	if maxFrozen == 0 {
		maxFrozen = source.Bears.Duration
	}
	if maxFrozen > 0 {
		args = append(args, "--max-frozen="+maxFrozen.String())
	}
	if c.MaxHoles > 0 {
		args = append(args, fmt.Sprintf("--max-holes=%d", c.MaxHoles))
	}
	if leaveFrozen {
		args = append(args, "--leave-frozen")
		if c.ResumeCache > 0 {
			args = append(args, "--resume-cache")
		}
	} else {
		args = append(args, "--spool-dir="+spoolDir)
	}
	if c.LayerCompression != "" && c.LayerCompression != Zstd {
		args = append(args, "--layer-compression="+c.LayerCompression)
	}
	if c.RegistryInsecure {
		args = append(args, "--registry-insecure")
	}
	if c.BaseRepository != "" {
		args = append(args, "--base-repository="+c.BaseRepository)
	}

	deadline := c.Timeout + startupAllowance + unpauseTimeout
	if leaveFrozen {
		deadline = c.Timeout + startupAllowance + c.standbyTime()
	}
	job := c.job(snapshot, ComponentCommit, naming.CommitJob(snapshot.Namespace, snapshot.Name, snapshot.UID), source, deadline)
	recordSource(job, source)
	pod := &job.Spec.Template.Spec
	container := &pod.Containers[0]
	if c.PushSecret != "" {
		args = append(args, "--registry-config="+path.Join(configDir, corev1.DockerConfigJsonKey))
		mount(pod, "push-secret", configDir, corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
			SecretName:  c.PushSecret,
			DefaultMode: ptr.To[int32](0o400),
			Items:       []corev1.KeyToPath{{Key: corev1.DockerConfigJsonKey, Path: corev1.DockerConfigJsonKey}},
		}})
	}
	if c.RegistryCA != "" {
		args = append(args, "--registry-ca="+path.Join(caDir, caFile))
		mount(pod, "registry-ca", caDir, corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: c.RegistryCA},
			Items:                []corev1.KeyToPath{{Key: caFile, Path: caFile}},
		}})
	}
	container.Env = append(container.Env, c.Proxy...)
	pod.HostNetwork = c.HostNetwork || c.RegistryOfNode
	c.readsUpperdirs(pod)
	seesWhatIsFrozen(pod)
	// It looks at the namespaces of processes, whoever they belong to.
	*capabilities(pod) = append(*capabilities(pod), "SYS_PTRACE")
	if !leaveFrozen {
		// What was read of a frozen container waits here until it is pushed; the committer
		// bounds it, and keeps no file with a name there.
		mount(pod, "spool", spoolDir, corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
		container.VolumeMounts[len(container.VolumeMounts)-1].ReadOnly = false
	}
	container.Args = args
	if leaveFrozen || len(source.Ended) < len(source.Containers) { // or nothing is ever frozen
		c.addStandby(pod, source, leaveFrozen)
	}
	return job
}

// recordSource writes into a Job what it is of: of one whose snapshot is gone nothing else tells what may be frozen.
func recordSource(job *batchv1.Job, source *Source) {
	encoded, _ := json.Marshal(source) //nolint:errchkjson // texts and numbers
	job.Annotations[v1alpha1.AnnotationSource] = string(encoded)
}

func (c *Config) thawAfter() time.Duration {
	if c.ThawAfter == 0 {
		return DefaultThawAfter
	}
	return c.ThawAfter
}

// standbyTime is how long the container beside a commit may be there after it: as long as it waits twice,
// and the time that a thaw or a kill takes.
func (c *Config) standbyTime() time.Duration {
	return 2*c.thawAfter() + KillGrace + unpauseTimeout
}

// readsUpperdirs gives a Pod what it takes to read what containers have written: where containerd
// says that it is, so the path is the node's. Trusted extended attributes (the overlay's own) can
// be read with CAP_SYS_ADMIN alone.
func (c *Config) readsUpperdirs(pod *corev1.PodSpec) {
	mount(pod, rootVolume, c.ContainerdRoot, corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{
		Path: c.ContainerdRoot, Type: ptr.To(corev1.HostPathDirectory),
	}})
	*capabilities(pod) = append(*capabilities(pod), readCapabilities...)
}

func capabilities(pod *corev1.PodSpec) *[]corev1.Capability {
	return &pod.Containers[0].SecurityContext.Capabilities.Add
}

// seesWhatIsFrozen gives a Pod the node's processes and their cgroups: the kernel knows what is
// frozen, while a runtime knows what it was asked for. It writes there to thaw, and to freeze a Pod
// as a whole. Neither SELinux nor AppArmor may keep it from that.
func seesWhatIsFrozen(pod *corev1.PodSpec) {
	pod.HostPID = true
	pod.SecurityContext.SELinuxOptions = &corev1.SELinuxOptions{Type: "spc_t"}
	pod.SecurityContext.AppArmorProfile = &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	mount(pod, cgroupVolume, cgroupDir, corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{
		Path: cgroupRoot, Type: ptr.To(corev1.HostPathDirectory),
	}})
	pod.Containers[0].VolumeMounts[len(pod.Containers[0].VolumeMounts)-1].ReadOnly = false
}

var readCapabilities = []corev1.Capability{"DAC_READ_SEARCH", "SYS_ADMIN"}

// Unpause is the Job that thaws the source of a snapshot.
func (c *Config) Unpause(snapshot *v1alpha1.SandboxSnapshot, source *Source) *batchv1.Job {
	job := c.job(snapshot, ComponentUnpause, naming.UnpauseJob(snapshot.Namespace, snapshot.Name, snapshot.UID), source, unpauseTimeout+startupAllowance)
	args := append([]string{"thaw", "--timeout=" + unpauseTimeout.String()}, c.sourceArgs(source, false)...)
	job.Spec.Template.Spec.Containers[0].Args = args
	seesWhatIsFrozen(&job.Spec.Template.Spec)
	recordSource(job, source)
	return job
}

// Uncache is the Job that removes from the source's node what was kept there for a snapshot.
func (c *Config) Uncache(snapshot *v1alpha1.SandboxSnapshot, source *Source) *batchv1.Job {
	job := c.job(snapshot, ComponentUncache, naming.UncacheJob(snapshot.Namespace, snapshot.Name, snapshot.UID), source, unpauseTimeout+startupAllowance)
	// Nobody asks what came of it, and what it was for is gone.
	job.Spec.TTLSecondsAfterFinished = ptr.To[int32](0)
	job.Spec.Template.Spec.Containers[0].Args = []string{
		"uncache", "--timeout=" + unpauseTimeout.String(), "--containerd-address=" + c.ContainerdSocket, "--snapshot-uid=" + string(snapshot.UID),
	}
	return job
}

func (c *Config) sourceArgs(source *Source, withImage bool) []string {
	args := []string{"--containerd-address=" + c.ContainerdSocket, "--cgroup-root=" + cgroupDir, "--pod-uid=" + string(source.PodUID)}
	for _, container := range source.Containers {
		arg := fmt.Sprintf("--container=name=%s,id=%s", container.ContainerName, container.ContainerID)
		if withImage {
			arg += ",image=" + container.ImageURI
		}
		args = append(args, arg)
	}
	return args
}

func (c *Config) job(snapshot *v1alpha1.SandboxSnapshot, component, name string, source *Source, deadline time.Duration) *batchv1.Job {
	labels := map[string]string{
		v1alpha1.LabelComponent:   component,
		v1alpha1.LabelSandbox:     naming.LabelValue(snapshot.Spec.SandboxName),
		v1alpha1.LabelSandboxUID:  string(snapshot.Status.SandboxUID),
		v1alpha1.LabelSnapshot:    naming.LabelValue(snapshot.Name),
		v1alpha1.LabelSnapshotUID: string(snapshot.UID),
		v1alpha1.LabelPodUID:      string(source.PodUID),
	}
	annotations := map[string]string{
		v1alpha1.AnnotationNamespace: snapshot.Namespace,
		v1alpha1.AnnotationSnapshot:  snapshot.Name,
	}
	pod := corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever,
		// An account without any permission; pull secrets for the committer's image lie on it.
		ServiceAccountName:           ServiceAccount,
		PriorityClassName:            c.PriorityClass,
		AutomountServiceAccountToken: ptr.To(false),
		EnableServiceLinks:           ptr.To(false),
		// The node is asked for by affinity, not by nodeName, so that the scheduler still counts
		// the Pod; every taint is tolerated, because a cordoned node is one to pause on.
		Affinity:                      onNode(source.NodeName),
		Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		TerminationGracePeriodSeconds: ptr.To(int64(stopGrace.Seconds())),
		SecurityContext: &corev1.PodSecurityContext{
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{c.container(containerName)},
	}
	mount(&pod, socketVolume, c.ContainerdSocket, corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{
		Path: c.ContainerdSocket, Type: ptr.To(corev1.HostPathSocket),
	}})
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: name, Labels: labels, Annotations: annotations},
		Spec: batchv1.JobSpec{
			// One Pod and no second one: whether to try again is decided with what the first
			// reported, never by running two commits of one Pod.
			BackoffLimit:            ptr.To[int32](0),
			PodReplacementPolicy:    ptr.To(batchv1.Failed),
			ActiveDeadlineSeconds:   ptr.To(int64(deadline.Seconds())),
			TTLSecondsAfterFinished: ptr.To(int32(timeToLive.Seconds())),
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: annotations},
				Spec:       pod,
			},
		},
	}
}

// container runs the committer, without any privilege but to be root.
func (c *Config) container(name string) corev1.Container {
	return corev1.Container{
		Name:                     name,
		Image:                    c.Image,
		TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		Resources: corev1.ResourceRequirements{
			// Nothing, and not the limit, or what a LimitRange says, which is what a request is that is left out: a node
			// without room is one to pause on, for that makes room. A priority would make it too, but at the cost of another
			// sandbox's Pod and its files: PriorityClass has to be one that preempts nobody. What commits take of a node is
			// bounded by their limit and --max-commits-per-node; and whoever uses more than it asked for goes first when
			// the node lacks memory, which then is the commit. Its limit keeps it from being BestEffort, which a kubelet
			// that lacks memory may refuse.
			Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("0"), corev1.ResourceMemory: resource.MustParse("0"), corev1.ResourceEphemeralStorage: resource.MustParse("0"),
			},
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memoryLimit)},
		},
		SecurityContext: &corev1.SecurityContext{
			// containerd's socket and the upperdirs belong to root.
			RunAsUser:                ptr.To[int64](0),
			ReadOnlyRootFilesystem:   ptr.To(true),
			AllowPrivilegeEscalation: ptr.To(false),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
}

func onNode(name string) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchFields: []corev1.NodeSelectorRequirement{{
					Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{name},
				}},
			}},
		},
	}}
}

func mount(pod *corev1.PodSpec, name, mountPath string, source corev1.VolumeSource) {
	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: name, VolumeSource: source})
	pod.Containers[0].VolumeMounts = append(pod.Containers[0].VolumeMounts,
		corev1.VolumeMount{Name: name, MountPath: mountPath, ReadOnly: true})
}
