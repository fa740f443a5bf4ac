//go:build e2e

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

package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/podexec"
)

// A commit of very many containers has its report in its log: a line that the runtime breaks into many,
// and the kubelet puts together again. All of the log is of one stream, as it is of image-committer: what comes by
// another may be logged between the parts of a line.
func TestAReportOfVeryManyContainersComesThroughTheLog(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	want := result.Result{FrozenMillis: 1234}
	for i := range 1000 {
		want.Containers = append(want.Containers, result.Container{
			Name: fmt.Sprintf("c%04d", i), Image: "registry.example.com/" + strings.Repeat("n", 200), Digest: fmt.Sprintf("sha256:%x", sha256.Sum256([]byte{byte(i)})), LayerBytes: int64(i),
		})
	}
	report, err := want.Report()
	if err != nil || len(report.Line) < 300<<10 {
		t.Fatalf("%d bytes, %v", len(report.Line), err)
	}
	if _, err := r.kube.CoreV1().ConfigMaps(r.namespace).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "report"}, Data: map[string]string{"line": string(report.Line) + "\n"},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	reporter := sleeper("image-committer")
	reporter.Command = []string{"sh", "-c", "echo before >&2; cat /report/line >&2; echo after >&2; sleep infinity"}
	reporter.VolumeMounts = []corev1.VolumeMount{{Name: "report", MountPath: "/report"}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "commit"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{reporter},
		Volumes:    []corev1.Volume{{Name: "report", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "report"}}}}},
	}}
	if _, err := r.kube.CoreV1().Pods(r.namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.kube.CoreV1().Pods(r.namespace).Delete(context.WithoutCancel(t.Context()), "commit", *metav1.NewDeleteOptions(0))
	})
	reader, err := podexec.New(r.config)
	if err != nil {
		t.Fatal(err)
	}
	message, err := result.Decode(report.Message)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the report is in the log", patience, func(ctx context.Context) (bool, string) {
		log, err := reader.Log(ctx, client.ObjectKey{Namespace: r.namespace, Name: "commit"}, "image-committer", 256, 4<<20)
		if err != nil {
			return false, err.Error()
		}
		got, err := message.FromLog(log)
		return err == nil && len(got.Containers) == 1000 && got.Containers[999] == want.Containers[999], fmt.Sprintf("%d bytes, %v", len(log), err)
	})
}

func TestTheServerMayReadTheLogsOfItsOwnNamespaceAlone(t *testing.T) {
	t.Parallel()
	k := newKubectl(t)
	const server = "--as=system:serviceaccount:sandbox-system:sandbox-apiserver"
	k.mustSay("yes", k.do("auth", "can-i", "get", "pods", "--subresource=log", "--namespace=sandbox-system", server))
	if said := k.fail("auth", "can-i", "get", "pods", "--subresource=log", server); !strings.Contains(said, "no") {
		t.Errorf("elsewhere: %s", said)
	}
}
