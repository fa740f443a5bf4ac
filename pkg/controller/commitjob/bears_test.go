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
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func TestBears(t *testing.T) {
	asks := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{}}
	defaults := &corev1.Probe{ProbeHandler: asks, PeriodSeconds: 10, FailureThreshold: 3, TimeoutSeconds: 1}
	for name, test := range map[string]struct {
		pod  corev1.PodSpec
		has  []corev1.ContainerStatus
		want time.Duration
	}{
		"no probe":                  {corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}}, nil, 2 * time.Minute},
		"the API's defaults":        {corev1.PodSpec{Containers: []corev1.Container{{LivenessProbe: defaults}}}, nil, 19 * time.Second},
		"defaults that nobody set":  {corev1.PodSpec{Containers: []corev1.Container{{LivenessProbe: &corev1.Probe{ProbeHandler: asks}}}}, nil, 19 * time.Second},
		"a readiness probe":         {corev1.PodSpec{Containers: []corev1.Container{{ReadinessProbe: defaults}}}, nil, 2 * time.Minute},
		"a command":                 {corev1.PodSpec{Containers: []corev1.Container{{LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{}}}}}}, nil, 2 * time.Minute},
		"one that bears everything": {corev1.PodSpec{Containers: []corev1.Container{{LivenessProbe: &corev1.Probe{ProbeHandler: asks, PeriodSeconds: 3600}}}}, nil, 2 * time.Minute},
		"one that bears nothing":    {corev1.PodSpec{Containers: []corev1.Container{{LivenessProbe: &corev1.Probe{ProbeHandler: asks, PeriodSeconds: 1, FailureThreshold: 1}}}}, nil, time.Second},
		"of a sidecar":              {corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}, InitContainers: []corev1.Container{{Name: "side", LivenessProbe: defaults}}}, nil, 19 * time.Second},
		"the most impatient":        {corev1.PodSpec{Containers: []corev1.Container{{LivenessProbe: defaults}, {LivenessProbe: &corev1.Probe{ProbeHandler: asks, PeriodSeconds: 5, FailureThreshold: 2, TimeoutSeconds: 3}}}}, nil, 6 * time.Second},
		"it starts": {corev1.PodSpec{Containers: []corev1.Container{{Name: "main", LivenessProbe: defaults, StartupProbe: &corev1.Probe{ProbeHandler: asks, FailureThreshold: 6}}}},
			[]corev1.ContainerStatus{{Name: "main", Started: ptr.To(false)}}, 49 * time.Second},
		"it has started": {corev1.PodSpec{Containers: []corev1.Container{{Name: "main", LivenessProbe: defaults, StartupProbe: &corev1.Probe{ProbeHandler: asks, FailureThreshold: 6}}}},
			[]corev1.ContainerStatus{{Name: "main", Started: ptr.To(true)}}, 19 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			got := Bears(&corev1.Pod{Spec: test.pod, Status: corev1.PodStatus{ContainerStatuses: test.has}})
			if got.Duration != test.want {
				t.Errorf("%s, want %s", got.Duration, test.want)
			}
		})
	}
}

// TestMaxFrozen is what the Pod bears, and what the flag says where it says something.
func TestMaxFrozen(t *testing.T) {
	for flag, want := range map[time.Duration]string{0: "--max-frozen=19s", time.Hour: "--max-frozen=1h0m0s"} {
		c := config()
		c.MaxFrozen = flag
		source := demoSource()
		source.Bears.Duration = 19 * time.Second
		job := c.Commit(snapshotNamed("demo-gen1"), source, true)
		if args := job.Spec.Template.Spec.Containers[0].Args; !slices.Contains(args, want) {
			t.Errorf("args %q, want %s", args, want)
		}
	}
}
