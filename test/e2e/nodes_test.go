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
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// firstNode is where the server and its registry are. It is never drained.
const firstNode = "local"

// twoNodes is a room on a local cluster of at least two nodes. Its tests are not parallel: each takes the second node
// from whatever else is there.
type twoNodes struct {
	*room
	second string
}

func newTwoNodes(t *testing.T) *twoNodes {
	t.Helper()
	second := theCluster(t).secondNode(t)
	if second == "" {
		t.Skip("the cluster has one node: `make cluster-up NODES=2` gives it another, `make e2e-nodes` runs these tests")
	}
	return &twoNodes{room: newRoom(t), second: second}
}

// secondNode is a node beside the first, empty where there is none.
func (c *cluster) secondNode(t *testing.T) string {
	t.Helper()
	nodes, err := c.kube.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range nodes.Items {
		if node.Name != firstNode {
			return node.Name
		}
	}
	return ""
}

// away keeps new Pods from a node, back lets them come again, at the end of the test at the latest.
func (n *twoNodes) away(node string) {
	n.t.Helper()
	n.t.Cleanup(func() { n.back(node) })
	n.setUnschedulable(node, true)
}

func (n *twoNodes) back(node string) {
	n.t.Helper()
	n.setUnschedulable(node, false)
}

func (n *twoNodes) setUnschedulable(node string, unschedulable bool) {
	n.t.Helper()
	patch := fmt.Appendf(nil, `{"spec": {"unschedulable": %t}}`, unschedulable)
	if _, err := n.kube.CoreV1().Nodes().Patch(context.Background(), node, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		n.t.Fatalf("set unschedulable of node %s to %t: %v", node, unschedulable, err)
	}
	// The scheduler sees it a moment later; the taint is what the node controller makes of it.
	eventually(n.t, fmt.Sprintf("node %s has unschedulable %t", node, unschedulable), patience, func(ctx context.Context) (bool, string) {
		found, err := n.kube.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		tainted := slices.ContainsFunc(found.Spec.Taints, func(taint corev1.Taint) bool { return taint.Key == corev1.TaintNodeUnschedulable })
		return tainted == unschedulable, inYAML(found.Spec)
	})
}

// startOn starts a sandbox on a node.
func (n *twoNodes) startOn(node, name string, changes ...func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
	n.t.Helper()
	other := firstNode
	if node == firstNode {
		other = n.second
	}
	n.away(other)
	defer n.back(other)
	return n.mustBeOn(node, n.start(name, changes...))
}

func (n *twoNodes) mustBeOn(node string, sandbox *v1alpha1.Sandbox) *v1alpha1.Sandbox {
	n.t.Helper()
	if sandbox.Status.NodeName != node {
		n.t.Fatalf("the sandbox %s is on node %q, want %q: %s", sandbox.Name, sandbox.Status.NodeName, node, describe(sandbox))
	}
	return sandbox
}

// containerds are those of all nodes. A further node's socket is where the cluster keeps what is the node's own.
func (c *cluster) containerds() ([]*containerd.Client, error) {
	clients := []*containerd.Client{c.containerd}
	sockets, err := filepath.Glob(filepath.Join(clusterDir(), "nodes", "*", "containerd", "containerd.sock"))
	if err != nil {
		return nil, err
	}
	for _, socket := range sockets {
		client, err := connectTo(socket)
		if err != nil {
			return nil, err
		}
		clients = append(clients, client)
	}
	return clients, nil
}

var connected sync.Map

// connectTo connects once to each socket: a client goes on when its containerd has been started again.
func connectTo(socket string) (*containerd.Client, error) {
	connectOnce, _ := connected.LoadOrStore(socket, sync.OnceValues(func() (*containerd.Client, error) {
		return containerd.New(socket, containerd.WithDefaultNamespace("k8s.io"))
	}))
	return connectOnce.(func() (*containerd.Client, error))()
}

// loseNode kills the programs of a node by the records of the local cluster, as if its network were gone: its containers
// run on. They are started again at the end of the test at the latest, when the node is one of the cluster again.
func (n *twoNodes) loseNode(node string) (giveBack func()) {
	n.t.Helper()
	done := false
	giveBack = func() {
		if done {
			return
		}
		done = true
		up := exec.CommandContext(context.Background(), filepath.Join(clusterDir(), "bin", "cluster"), "up", "--dir", clusterDir(), "--source", "../../hack/cluster")
		if out, err := up.CombinedOutput(); err != nil {
			n.t.Fatalf("give node %s back: %v\n%s", node, err, out)
		}
	}
	n.t.Cleanup(giveBack)
	for _, program := range []string{"kubelet", "containerd"} {
		n.killRecorded(program + "-" + node)
	}
	return giveBack
}

func (n *twoNodes) killRecorded(name string) {
	n.t.Helper()
	record, err := os.ReadFile(filepath.Join(clusterDir(), "run", name+".pid.json"))
	var process struct{ PID int }
	if err == nil {
		err = json.Unmarshal(record, &process)
	}
	if err == nil && process.PID < 2 {
		err = fmt.Errorf("it names process %d", process.PID)
	}
	if err == nil {
		err = syscall.Kill(process.PID, syscall.SIGKILL)
	}
	if err != nil {
		n.t.Fatalf("end %s of the local cluster: %v", name, err)
	}
}

// TestTwoNodesAreBothNodes: what a person does with a sandbox is the same on the second node, and where it was paused it
// comes back, if it can.
func TestTwoNodesAreBothNodes(t *testing.T) {
	n := newTwoNodes(t)
	n.startOn(n.second, "demo")
	n.sh("demo", "echo mine > /root/mine; echo said > /proc/1/fd/1")
	logs, err := n.kube.CoreV1().Pods(n.namespace).GetLogs("demo", &corev1.PodLogOptions{}).DoRaw(t.Context())
	if err != nil || string(logs) != "said\n" {
		t.Errorf("the log of a Pod on node %s is %q (%v)", n.second, logs, err)
	}
	back, snapshot := n.pauseAndResume("demo")
	n.mustBeOn(n.second, back)
	if snapshot.Status.SourceNodeName != n.second {
		t.Errorf("the snapshot is from node %q", snapshot.Status.SourceNodeName)
	}

	// Its node takes no Pods any more.
	n.sh("demo", "echo more > /root/more")
	n.pause("demo")
	n.awaitPaused("demo")
	n.away(n.second)
	n.resume("demo")
	n.mustBeOn(firstNode, n.awaitReady("demo"))
	if got := n.sh("demo", "cat /root/mine /root/more"); got != "mine\nmore\n" {
		t.Errorf("resumed on another node, there is %q", got)
	}

	// And back, as an upgrade of one node after the other has it.
	n.sh("demo", "echo most > /root/most")
	n.pause("demo")
	n.awaitPaused("demo")
	n.back(n.second)
	n.away(firstNode)
	n.resume("demo")
	n.mustBeOn(n.second, n.awaitReady("demo"))
	if got := n.sh("demo", "cat /root/mine /root/more /root/most"); got != "mine\nmore\nmost\n" {
		t.Errorf("resumed on the node from before, there is %q", got)
	}
}

// TestTwoNodesOneIsLost: its kubelet and containerd are killed and its object is deleted, as a cloud does it when a machine
// is gone. Nobody can read what the sandbox has written since its last snapshot, so it comes back from that, and says so.
func TestTwoNodesOneIsLost(t *testing.T) {
	n := newTwoNodes(t)
	n.startOn(n.second, "demo")
	n.sh("demo", "echo saved > /root/saved")
	before, snapshot := n.pauseAndResume("demo")
	n.mustBeOn(n.second, before)
	n.sh("demo", "echo lost > /root/lost")
	n.startOn(n.second, "new")

	giveBack := n.loseNode(n.second)
	if err := n.kube.CoreV1().Nodes().Delete(t.Context(), n.second, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	moved := n.await("demo", "it is back on the other node", func(s *v1alpha1.Sandbox) bool {
		return s.Status.NodeName == firstNode && s.Status.PodUID != before.Status.PodUID && s.Status.Phase == v1alpha1.SandboxRunning
	})
	moved = n.awaitReady("demo")
	if got := n.sh("demo", "ls /root"); got != "saved\n" {
		t.Errorf("come back from its last snapshot, there is %q", got)
	}
	if said := messageOf(moved.Status.Conditions, v1alpha1.ConditionDataLost); !strings.Contains(said, snapshot.Name) {
		t.Errorf("what was lost is not said: %s", describe(moved))
	}
	fresh := n.await("new", "it is back on the other node", func(s *v1alpha1.Sandbox) bool {
		return s.Status.NodeName == firstNode && s.Status.Phase == v1alpha1.SandboxRunning
	})
	if messageOf(fresh.Status.Conditions, v1alpha1.ConditionDataLost) == "" {
		t.Errorf("what was lost is not said: %s", describe(fresh))
	}

	// The node comes again with containers that nobody wants any more, and hurts nobody.
	giveBack()
	eventually(t, "what ran on the node ends", patience, func(ctx context.Context) (bool, string) {
		socket := filepath.Join(clusterDir(), "nodes", n.second, "containerd", "containerd.sock")
		client, err := connectTo(socket)
		if err != nil {
			return false, err.Error()
		}
		left, err := containersOf(ctx, client, n.namespace)
		return err == nil && len(left) == 0, fmt.Sprintf("%v, %v", left, err)
	})
	if now := n.get("demo"); now.Status.PodUID != moved.Status.PodUID || now.Status.Phase != v1alpha1.SandboxRunning {
		t.Errorf("with the node back the sandbox is %s", describe(now))
	}
}

// drain is kubectl's. It fails where kubectl does.
func (n *twoNodes) drain(node string, flags ...string) string {
	n.t.Helper()
	n.t.Cleanup(func() { n.back(node) })
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	var out bytes.Buffer
	drain := exec.CommandContext(ctx, n.kubectl, append([]string{"--kubeconfig", n.kubeconfig, "drain", node}, flags...)...)
	drain.Stdout, drain.Stderr = &out, &out
	if err := drain.Run(); err != nil {
		n.t.Fatalf("kubectl drain %s: %v\n%s", strings.Join(flags, " "), err, out.String())
	}
	return out.String()
}

// podGone tells whether a Pod of this UID is no more.
func (n *twoNodes) podGone(ctx context.Context, name string, uid types.UID) (bool, string) {
	pod, err := n.kube.CoreV1().Pods(n.namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, ""
	}
	return err == nil && pod.UID != uid, fmt.Sprint(err, inYAML(pod))
}
