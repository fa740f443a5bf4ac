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
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned"
	lifecycle "github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned/typed/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/test/bench/inpod"
)

const (
	namespace       = "bench-drain"
	systemNamespace = "sandbox-system"
	server          = "sandbox-apiserver"
	firstNode       = "local"
	// image is on the nodes of the local cluster already.
	image = "docker.io/library/busybox:local"
	// cleaningUp bounds what is done after the deadline, or after an interrupt.
	cleaningUp = 5 * time.Minute
)

// cluster is the local cluster with its two nodes.
type cluster struct {
	config              *rest.Config
	kube                kubernetes.Interface
	sandbox             versioned.Interface
	kubectl, kubeconfig string
	second              string
	// allowed is how many commits may run on a node.
	allowed int
}

// connect finds the cluster by the variables of its cluster.env.
func connect(ctx context.Context) (*cluster, error) {
	c := &cluster{kubeconfig: os.Getenv("KUBECONFIG"), kubectl: os.Getenv("KUBECTL")}
	if c.kubeconfig == "" || c.kubectl == "" {
		return nil, errors.New("KUBECONFIG and KUBECTL are not both set: run this with `make bench-drain`")
	}
	var err error
	if c.config, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig); err != nil {
		return nil, fmt.Errorf("KUBECONFIG: %w", err)
	}
	c.config.QPS, c.config.Burst = 200, 400
	if c.kube, err = kubernetes.NewForConfig(c.config); err != nil {
		return nil, err
	}
	if c.sandbox, err = versioned.NewForConfig(c.config); err != nil {
		return nil, err
	}
	nodes, err := c.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, node := range nodes.Items {
		if node.Name != firstNode {
			c.second = node.Name
		}
	}
	if len(nodes.Items) != 2 || c.second == "" {
		return nil, fmt.Errorf("the cluster has %d nodes, and this wants two, one of them %s: `make cluster-up NODES=2`", len(nodes.Items), firstNode)
	}
	c.allowed, err = c.commitsPerNode(ctx)
	return c, err
}

// commitsPerNode is what the server's flag says.
func (c *cluster) commitsPerNode(ctx context.Context) (int, error) {
	set, err := c.kube.AppsV1().StatefulSets(systemNamespace).Get(ctx, server, metav1.GetOptions{})
	if err != nil {
		return 0, err
	}
	allowed := "2"
	for _, arg := range set.Spec.Template.Spec.Containers[0].Args {
		if value, found := strings.CutPrefix(arg, "--max-commits-per-node="); found {
			allowed = value
		}
	}
	return strconv.Atoi(allowed)
}

func (c *cluster) sandboxes() lifecycle.SandboxInterface {
	return c.sandbox.LifecycleV1alpha1().Sandboxes(namespace)
}

func (c *cluster) snapshots() lifecycle.SandboxSnapshotInterface {
	return c.sandbox.LifecycleV1alpha1().SandboxSnapshots(namespace)
}

// enter makes the bench's namespace.
func (c *cluster) enter(ctx context.Context) error {
	object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := c.kube.CoreV1().Namespaces().Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make namespace %s (one that an earlier run left behind can be deleted): %w", namespace, err)
	}
	// What every Pod needs.
	return until(ctx, func(ctx context.Context) (bool, error) {
		_, err := c.kube.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, ignoreNotFound(err)
	})
}

// leave lets Pods come to both nodes again, and deletes the namespace with everything in it.
func (c *cluster) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cleaningUp)
	defer cancel()
	err := errors.Join(c.cordon(ctx, firstNode, false), c.cordon(ctx, c.second, false))
	if err := c.kube.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return errors.Join(err, until(ctx, func(ctx context.Context) (bool, error) {
		_, err := c.kube.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		return apierrors.IsNotFound(err), ignoreNotFound(err)
	}))
}

// empty deletes all sandboxes and has both nodes take Pods again.
func (c *cluster) empty(ctx context.Context) error {
	if err := c.sandboxes().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return err
	}
	if err := until(ctx, func(ctx context.Context) (bool, error) {
		sandboxes, err := c.sandboxes().List(ctx, metav1.ListOptions{})
		if err != nil || len(sandboxes.Items) > 0 {
			return false, err
		}
		snapshots, err := c.snapshots().List(ctx, metav1.ListOptions{})
		return err == nil && len(snapshots.Items) == 0, err
	}); err != nil {
		return fmt.Errorf("delete the sandboxes: %w", err)
	}
	return c.cordon(ctx, c.second, false)
}

// cordon keeps new Pods from a node, or lets them come again.
func (c *cluster) cordon(ctx context.Context, node string, cordoned bool) error {
	patch := fmt.Appendf(nil, `{"spec": {"unschedulable": %t}}`, cordoned)
	if _, err := c.kube.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("set unschedulable of node %s to %t: %w", node, cordoned, err)
	}
	return nil
}

// exec runs a script in a sandbox.
func (c *cluster) exec(ctx context.Context, name, script string) error {
	return inpod.Exec(ctx, c.kube, c.config, namespace, name, script)
}

// until asks again and again, for what nothing measured waits for.
func until(ctx context.Context, done func(context.Context) (bool, error)) error {
	return wait.PollUntilContextCancel(ctx, 200*time.Millisecond, true, done)
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
