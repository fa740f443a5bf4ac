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
	"bytes"
	"fmt"
	"net/url"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/workqueue"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// TestThePretendedKubeletsKill is asked as the kube-apiserver asks.
func TestThePretendedKubeletsKill(t *testing.T) {
	commit := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: systemNamespace, Name: "demo-gen1-commit-x", UID: "commit-1",
		Labels: map[string]string{v1alpha1.LabelSandbox: "demo"}, Annotations: map[string]string{v1alpha1.AnnotationNamespace: "default"},
	}}
	frozen := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo", UID: "pod-1"}}
	known := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	if err := known.Add(commit); err != nil {
		t.Fatal(err)
	}
	n := &nodes{
		kube: fake.NewClientset(commit, frozen), pods: corelisters.NewPodLister(known),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[cache.ObjectName]()),
	}
	defer n.queue.ShutDown()
	if err := n.startKubelet(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask := func(pod string) (stdout string, err error) {
		executor, err := remotecommand.NewSPDYExecutor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, "POST", &url.URL{
			Scheme: "https", Host: fmt.Sprintf("127.0.0.1:%d", n.kubelet), Path: "/exec/" + systemNamespace + "/" + pod + "/kill",
			RawQuery: url.Values{"command": {"/image-committer", "kill", "--pod-uid=pod-1"}, "output": {"1"}, "error": {"1"}}.Encode(),
		})
		if err != nil {
			return "", err
		}
		var out, log bytes.Buffer
		err = executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out, Stderr: &log})
		return out.String(), err
	}
	for range 2 { // a kill can be repeated
		if said, err := ask(commit.Name); err != nil || said != `{"thawed":true}` {
			t.Fatalf("it says %q (%v)", said, err)
		}
	}
	if _, err := n.kube.CoreV1().Pods("default").Get(t.Context(), "demo", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the frozen Pod is not gone (%v)", err)
	}
	if _, killed := n.killed.Load(commit.UID); !killed {
		t.Error("what stands by is not told")
	}
	if _, err := ask("other"); err == nil {
		t.Error("a Pod that nobody knows is killed beside")
	}
}
