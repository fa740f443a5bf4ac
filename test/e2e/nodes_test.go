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
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

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
	n.await("demo", "it is back on the other node", func(s *v1alpha1.Sandbox) bool {
		return s.Status.NodeName == firstNode && s.Status.PodUID != before.Status.PodUID && s.Status.Phase == v1alpha1.SandboxRunning
	})
	moved := n.awaitReady("demo")
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

	// The node comes again with containers that nobody wants any more, and hurts nobody:
	// https://github.com/kubernetes/kubernetes/issues/38758.
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

// TestTwoNodesADrainMovesEverySandbox is the day of a node's upgrade: kubectl drain, without --force and without leave to
// delete what Pods keep on the node, ends by itself and well, whatever policies it meets; whoever had files on the node has
// them on the other. Others' drains did not: https://github.com/kubevirt/kubevirt/issues/6782,
// https://github.com/kubevirt/kubevirt/issues/3772, https://github.com/harvester/harvester/issues/8856.
func TestTwoNodesADrainMovesEverySandbox(t *testing.T) {
	n := newTwoNodes(t)
	n.away(firstNode)
	saved := []string{"one", "two", "three", "four"}
	for _, name := range saved {
		n.create(name)
	}
	n.create("let-go", func(s *v1alpha1.Sandbox) { s.Spec.EvictionPolicy = v1alpha1.EvictionPolicyNone })
	n.create("paused")
	before := map[string]*v1alpha1.Sandbox{}
	for _, name := range append([]string{"let-go", "paused"}, saved...) {
		before[name] = n.mustBeOn(n.second, n.awaitReady(name))
		n.sh(name, "dd if=/dev/urandom of=/root/big bs=1M count=10 2>/dev/null && md5sum /root/big > /root/big.md5 && rm /bin/vi")
	}
	n.pause("paused")
	n.awaitPaused("paused")
	n.back(firstNode)

	said := n.drain(n.second, "--timeout=4m")
	if !strings.Contains(said, "node/"+n.second+" drained") {
		t.Errorf("kubectl drain says %q", said)
	}
	pods, err := n.kube.CoreV1().Pods(n.namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + n.second})
	if err != nil || len(pods.Items) > 0 {
		t.Errorf("the drain has ended, and on the node there is %s (%v)", inYAML(pods.Items), err)
	}
	for _, name := range saved {
		n.await(name, "ready on the other node", n.readyOn(firstNode))
		n.mustHaveMoved(name, before[name])
	}
	again := n.await("let-go", "ready on the other node", n.readyOn(firstNode))
	if reasonOf(again.Status.Conditions, v1alpha1.ConditionDataLost) == "" || again.Status.SnapshotName != "" {
		t.Errorf("a drain has lost the files of what is not to be saved: %s", describe(again))
	}
	if now := n.get("paused"); now.Status.Phase != v1alpha1.SandboxPaused || now.Status.SnapshotAttempts != 1 {
		t.Errorf("what was paused on the node is %s", describe(now))
	}
	n.resume("paused")
	n.mustBeOn(firstNode, n.awaitReady("paused"))
	n.sh("paused", checkBigFile)
}

// TestTwoNodesTheServersOwnIsDrained: the only replica goes last, to the other node, and goes on there.
func TestTwoNodesTheServersOwnIsDrained(t *testing.T) {
	n := newTwoNodes(t)
	before := n.startOn(firstNode, "demo")
	n.sh("demo", quietFile+" && rm /bin/vi")
	t.Cleanup(func() { // as others expect it
		n.away(n.second)
		if err := n.kube.CoreV1().Pods(systemNamespace).Delete(context.Background(), serverPod, metav1.DeleteOptions{}); err != nil {
			t.Errorf("send the server back: %v", err)
		}
		eventually(t, "the server is back on its node", patience, n.serverOn(firstNode))
		n.awaitServer(t)
	})
	n.drain(firstNode, "--delete-emptydir-data", "--timeout=4m") // the server's own
	n.mustHaveMoved("demo", before)
	eventually(t, "the server is on the other node", patience, n.serverOn(n.second))
	n.awaitServer(t)
	n.await("demo", "ready on the other node", n.readyOn(n.second))
	n.back(firstNode)
	n.pauseAndResume("demo")
	n.sh("demo", checkBigFile)
}

func (n *twoNodes) serverOn(node string) func(context.Context) (bool, string) {
	return func(ctx context.Context) (bool, string) {
		pod, err := n.kube.CoreV1().Pods(systemNamespace).Get(ctx, serverPod, metav1.GetOptions{})
		return err == nil && pod.Spec.NodeName == node && pod.DeletionTimestamp == nil && podReady(pod), fmt.Sprint(err, inYAML(pod))
	}
}

// TestTwoNodesATaintMovesWhatDoesNotTolerateIt: NoExecute, as an administrator or an operator sets it. Whoever tolerates it for
// a time has that time, whoever does not has what its Pod takes to end.
func TestTwoNodesATaintMovesWhatDoesNotTolerateIt(t *testing.T) {
	n := newTwoNodes(t)
	tolerating := func(seconds *int64) func(*v1alpha1.Sandbox) {
		return func(s *v1alpha1.Sandbox) {
			s.Spec.Template.Spec.Tolerations = []corev1.Toleration{{
				Key: "example.com/upkeep", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds,
			}}
		}
	}
	n.away(firstNode)
	n.create("patient", tolerating(ptr.To[int64](600)))
	n.create("staying", tolerating(nil))
	n.create("hasty", func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.TerminationGracePeriodSeconds = ptr.To[int64](120)
	})
	before := map[string]*v1alpha1.Sandbox{}
	for _, name := range []string{"patient", "staying", "hasty"} {
		before[name] = n.mustBeOn(n.second, n.awaitReady(name))
		n.sh(name, "dd if=/dev/urandom of=/root/big bs=1M count=10 2>/dev/null && md5sum /root/big > /root/big.md5 && rm /bin/vi")
	}
	n.back(firstNode)

	t.Cleanup(func() { n.setTaints(n.second) })
	n.setTaints(n.second, corev1.Taint{Key: "example.com/upkeep", Effect: corev1.TaintEffectNoExecute})
	for _, name := range []string{"patient", "hasty"} {
		n.await(name, "ready on the other node", n.readyOn(firstNode))
		n.mustHaveMoved(name, before[name])
	}
	if now := n.get("staying"); now.Status.PodUID != before["staying"].Status.PodUID || now.Status.Move != nil {
		t.Errorf("what tolerates the taint is %s", describe(now))
	}
}

// setTaints replaces the taints of a node.
func (n *twoNodes) setTaints(node string, taints ...corev1.Taint) {
	n.t.Helper()
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"taints": taints}})
	if err == nil {
		_, err = n.kube.CoreV1().Nodes().Patch(context.Background(), node, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	if err != nil {
		n.t.Fatalf("set the taints of node %s: %v", node, err)
	}
}

func (n *twoNodes) readyOn(node string) func(*v1alpha1.Sandbox) bool {
	return func(s *v1alpha1.Sandbox) bool {
		return s.Status.NodeName == node && s.Status.Phase == v1alpha1.SandboxRunning && meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionReady)
	}
}

// mustHaveMoved fails the test unless a sandbox is another Pod now with all that it had, and with nothing to do.
func (n *twoNodes) mustHaveMoved(name string, before *v1alpha1.Sandbox) {
	n.t.Helper()
	now := n.await(name, "back from what was saved", func(s *v1alpha1.Sandbox) bool {
		return s.Status.Move == nil && s.Status.PodUID != before.Status.PodUID && meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionReady)
	})
	if now.Status.NodeName == before.Status.NodeName || now.Spec.DesiredState != v1alpha1.DesiredStateRunning || now.Status.SnapshotName == "" ||
		meta.IsStatusConditionTrue(now.Status.Conditions, v1alpha1.ConditionDataLost) {
		n.t.Errorf("moved from node %s, the sandbox is %s on node %s", before.Status.NodeName, describe(now), now.Status.NodeName)
	}
	n.sh(name, checkBigFile+" && test ! -e /bin/vi")
}

// TestTwoNodesADrainThatIsGivenUp: who interrupts a drain and lets Pods come to the node again has sandboxes that run, wherever
// each is by then, and nothing that goes on for ever: https://github.com/kubevirt/kubevirt/issues/5177,
// https://github.com/kubevirt/kubevirt/issues/9585.
func TestTwoNodesADrainThatIsGivenUp(t *testing.T) {
	n := newTwoNodes(t)
	names := []string{"one", "two", "three", "four"}
	n.away(firstNode)
	for _, name := range names {
		n.create(name)
	}
	before := map[string]*v1alpha1.Sandbox{}
	for _, name := range names {
		before[name] = n.mustBeOn(n.second, n.awaitReady(name))
		n.sh(name, "dd if=/dev/urandom of=/root/big bs=1M count=10 2>/dev/null && md5sum /root/big > /root/big.md5")
	}
	n.back(firstNode)
	t.Cleanup(func() { n.back(n.second) })
	ctx, giveUp := context.WithCancel(t.Context())
	drain := n.kubectlDrain(ctx, n.second)
	if err := drain.Start(); err != nil {
		t.Fatal(err)
	}
	quickly(t, "the first one moves", patience, func(context.Context) (bool, string) {
		return slices.ContainsFunc(names, func(name string) bool { return n.get(name).Status.Move != nil }), "none"
	})
	giveUp()
	_ = drain.Wait()
	n.back(n.second)

	for _, name := range names {
		now := n.await(name, "as it is to be, somewhere", func(s *v1alpha1.Sandbox) bool {
			return s.Status.Move == nil && s.Status.Phase == v1alpha1.SandboxRunning && meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionReady)
		})
		if meta.IsStatusConditionTrue(now.Status.Conditions, v1alpha1.ConditionDataLost) || now.Status.SnapshotAttempts > 1 {
			t.Errorf("after a drain that was given up it is %s, from %s", describe(now), describe(before[name]))
		}
		n.sh(name, checkBigFile)
	}
}

// kubectlDrain is without --force.
func (n *twoNodes) kubectlDrain(ctx context.Context, node string, flags ...string) *exec.Cmd {
	return exec.CommandContext(ctx, n.kubectl, append([]string{"--kubeconfig", n.kubeconfig, "drain", node, "--ignore-daemonsets"}, flags...)...)
}

// drain fails where kubectl does.
func (n *twoNodes) drain(node string, flags ...string) string {
	n.t.Helper()
	n.t.Cleanup(func() { n.back(node) })
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	out, err := n.kubectlDrain(ctx, node, flags...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("kubectl drain %s: %v\n%s", node, err, out)
	}
	return string(out)
}
