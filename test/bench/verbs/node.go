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
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned"
	lifecycle "github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned/typed/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/test/bench/inpod"
)

const (
	namespace = "bench-verbs"
	// image is on the node of the local cluster already.
	image = "docker.io/library/busybox:local"
	// cleaningUp bounds what is done after the deadline, or after an interrupt.
	cleaningUp = 2 * time.Minute
)

// node is the local cluster with its one node.
type node struct {
	config     *rest.Config
	kube       kubernetes.Interface
	sandbox    versioned.Interface
	containerd *containerd.Client
	// phase is by how much what is measured begins later in the kubelet's period than what went before ended.
	phase time.Duration
}

// connect finds the cluster by the variables of its cluster.env.
func connect() (*node, error) {
	kubeconfig, address := os.Getenv("KUBECONFIG"), strings.TrimPrefix(os.Getenv("CONTAINERD_ADDRESS"), "unix://")
	if kubeconfig == "" || address == "" {
		return nil, errors.New("KUBECONFIG and CONTAINERD_ADDRESS are not both set: run this with `make bench-verbs`")
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("KUBECONFIG: %w", err)
	}
	config.QPS, config.Burst = 200, 400
	n := &node{config: config}
	if n.kube, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	if n.sandbox, err = versioned.NewForConfig(config); err != nil {
		return nil, err
	}
	if n.containerd, err = containerd.New(address, containerd.WithDefaultNamespace("k8s.io")); err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", address, err)
	}
	return n, nil
}

func (n *node) pods() corev1client.PodInterface { return n.kube.CoreV1().Pods(namespace) }

func (n *node) sandboxes() lifecycle.SandboxInterface {
	return n.sandbox.LifecycleV1alpha1().Sandboxes(namespace)
}

func (n *node) snapshots() lifecycle.SandboxSnapshotInterface {
	return n.sandbox.LifecycleV1alpha1().SandboxSnapshots(namespace)
}

// enter makes the bench's namespace; leave deletes it with everything in it and waits for that.
func (n *node) enter(ctx context.Context) (leave func(), err error) {
	object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := n.kube.CoreV1().Namespaces().Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("make namespace %s (one that an earlier run left behind can be deleted): %w", namespace, err)
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleaningUp)
		defer cancel()
		if err := n.leave(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "verbs:", err)
		}
	}, n.awaitServiceAccount(ctx)
}

func (n *node) leave(ctx context.Context) error {
	isGone, err := see(ctx, n.kube.CoreV1().Namespaces().Watch, namespace, deleted)
	if err != nil {
		return err
	}
	if err := n.kube.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete namespace %s: %w", namespace, err)
	}
	if _, err := isGone(ctx); err != nil {
		return fmt.Errorf("namespace %s is being deleted and still there: %w", namespace, err)
	}
	return nil
}

// awaitServiceAccount waits for what every Pod needs.
func (n *node) awaitServiceAccount(ctx context.Context) error {
	isThere, err := see(ctx, n.kube.CoreV1().ServiceAccounts(namespace).Watch, "default", exists)
	if err != nil {
		return err
	}
	_, err = isThere(ctx)
	return err
}

// exec runs a script in a sandbox.
func (n *node) exec(ctx context.Context, name, script string) error {
	return inpod.Exec(ctx, n.kube, n.config, namespace, name, script)
}

// removeImages removes the images of all snapshots from the node, with the layers that nothing else uses.
func (n *node) removeImages(ctx context.Context) error {
	saved, err := n.snapshots().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	digests := map[string]bool{}
	for i := range saved.Items {
		for _, container := range saved.Items[i].Status.Containers {
			digests[container.ImageDigest] = true
		}
	}
	store := n.containerd.ImageService()
	all, err := store.List(ctx)
	if err != nil {
		return fmt.Errorf("list containerd's images: %w", err)
	}
	for _, found := range all {
		if !digests[found.Target.Digest.String()] {
			continue
		}
		if err := store.Delete(ctx, found.Name, images.SynchronousDelete()); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove image %s from the node: %w", found.Name, err)
		}
	}
	return nil
}

// mustBeKept fails where the node has not kept the image of a snapshot by the time that its sandbox
// is paused.
func (n *node) mustBeKept(ctx context.Context, name string) error {
	snapshot, err := n.snapshots().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	digest := snapshot.Status.Containers[0].ImageDigest
	found, err := n.containerd.ImageService().List(ctx, "target.digest=="+digest)
	if err != nil {
		return fmt.Errorf("look for image %s on the node: %w", digest, err)
	}
	if len(found) == 0 {
		return fmt.Errorf("the node has not kept image %s: is the server's --resume-cache set, and the disk less than 70 %% full?", digest)
	}
	return nil
}
