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

package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned"
	informers "github.com/opensandbox-io/sandbox-apiserver/generated/informers/externalversions/lifecycle/v1alpha1"
	listers "github.com/opensandbox-io/sandbox-apiserver/generated/listers/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
)

// byUID is the index of both caches.
const byUID = "uid"

// cluster is what the proxy knows of sandboxes and their Pods without asking: each request for a port needs both.
type cluster struct {
	live          versioned.Interface
	sandboxes     cache.SharedIndexInformer
	pods          cache.SharedIndexInformer
	sandboxLister listers.SandboxLister
	podLister     corelisters.PodLister
	lives         lives
}

func newCluster(kube kubernetes.Interface, lifecycle versioned.Interface) (*cluster, error) {
	indexers := cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc, byUID: func(object any) ([]string, error) {
		meta, ok := object.(metav1.Object)
		if !ok {
			return nil, fmt.Errorf("%T in the cache is no object", object)
		}
		return []string{string(meta.GetUID())}, nil
	}}
	c := &cluster{
		live:      lifecycle,
		sandboxes: informers.NewSandboxInformer(lifecycle, metav1.NamespaceAll, 0, indexers),
		pods: coreinformers.NewFilteredPodInformer(kube, metav1.NamespaceAll, 0, indexers,
			func(o *metav1.ListOptions) { o.LabelSelector = v1alpha1.LabelSandboxUID }),
	}
	c.sandboxLister = listers.NewSandboxLister(c.sandboxes.GetIndexer())
	c.podLister = corelisters.NewPodLister(c.pods.GetIndexer())
	_, err := c.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(_, now any) { c.lives.endUnless(now.(*corev1.Pod), runs) },
		DeleteFunc: func(last any) {
			if unseen, ok := last.(cache.DeletedFinalStateUnknown); ok {
				last = unseen.Obj
			}
			if pod, ok := last.(*corev1.Pod); ok {
				c.lives.end(pod.UID)
			}
		},
	})
	return c, errors.Join(err, c.sandboxes.SetTransform(slimSandbox), c.pods.SetTransform(slimPod))
}

// slimSandbox keeps of a sandbox what is read here, and by those who go by Seen: templates are most of it.
func slimSandbox(object any) (any, error) {
	full, ok := object.(*v1alpha1.Sandbox)
	if !ok {
		return object, nil
	}
	slim := &v1alpha1.Sandbox{ObjectMeta: slimMeta(full.ObjectMeta)}
	if value, ok := full.Annotations[v1alpha1.AnnotationSecureAccess]; ok {
		slim.Annotations = map[string]string{v1alpha1.AnnotationSecureAccess: value}
	}
	slim.Spec.DesiredState = full.Spec.DesiredState
	slim.Status = v1alpha1.SandboxStatus{Phase: full.Status.Phase, PodName: full.Status.PodName, PodUID: full.Status.PodUID, Conditions: full.Status.Conditions}
	return slim, nil
}

// slimPod keeps of a Pod what is read here.
func slimPod(object any) (any, error) {
	full, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	slim := &corev1.Pod{ObjectMeta: slimMeta(full.ObjectMeta)}
	slim.Labels = map[string]string{
		v1alpha1.LabelSandbox:    full.Labels[v1alpha1.LabelSandbox],
		v1alpha1.LabelSandboxUID: full.Labels[v1alpha1.LabelSandboxUID],
	}
	slim.Spec.HostNetwork = full.Spec.HostNetwork
	slim.Status = corev1.PodStatus{Phase: full.Status.Phase, PodIP: full.Status.PodIP, HostIP: full.Status.HostIP, HostIPs: full.Status.HostIPs}
	return slim, nil
}

func slimMeta(full metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: full.Namespace, Name: full.Name, UID: full.UID,
		ResourceVersion: full.ResourceVersion, DeletionTimestamp: full.DeletionTimestamp}
}

// run watches until the context ends.
func (c *cluster) run(ctx context.Context) {
	var watching sync.WaitGroup
	watching.Go(func() { c.sandboxes.RunWithContext(ctx) })
	watching.Go(func() { c.pods.RunWithContext(ctx) })
	watching.Wait()
}

func (c *cluster) synced() bool { return c.sandboxes.HasSynced() && c.pods.HasSynced() }

// known is a sandbox of the cache; nil where it has none of the name.
func (c *cluster) known(namespace, name string) *v1alpha1.Sandbox {
	sandbox, err := c.sandboxLister.Sandboxes(namespace).Get(name)
	if err != nil {
		return nil
	}
	return sandbox
}

// read asks for a sandbox that the cache does not have (yet): it is created at this replica or another, and its port asked
// for, within a round trip.
func (c *cluster) read(ctx context.Context, namespace, name string) (*v1alpha1.Sandbox, error) {
	sandbox, err := c.live.LifecycleV1alpha1().Sandboxes(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsBadRequest(err) || apierrors.IsInvalid(err) {
		return nil, nil
	}
	if err != nil {
		return nil, answer.Unavailable(fmt.Sprintf("kube-apiserver could not be asked for sandbox %q", name), err)
	}
	return sandbox, nil
}

// podOf is the Pod that a sandbox says is its own, as the cache has it.
func (c *cluster) podOf(sandbox *v1alpha1.Sandbox) *corev1.Pod {
	if sandbox.Status.PodUID == "" {
		return nil
	}
	pod := c.podByUID(sandbox.Status.PodUID)
	if pod == nil || pod.Namespace != sandbox.Namespace {
		return nil
	}
	return pod
}

func (c *cluster) podByUID(uid types.UID) *corev1.Pod {
	found, err := c.pods.GetIndexer().ByIndex(byUID, string(uid))
	if err != nil || len(found) != 1 {
		return nil
	}
	return found[0].(*corev1.Pod)
}

// runs says whether a Pod still has its address.
func runs(pod *corev1.Pod) bool {
	return pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// errPodGone ends what goes on with a Pod that is no more: nothing else would tell for minutes, as its address is silent.
var errPodGone = errors.New("the Pod is gone")

// lives has a context for each Pod that something goes on with.
type lives struct {
	mu   sync.Mutex
	uids map[types.UID]life
}

type life struct {
	context.Context
	end context.CancelCauseFunc
}

// life ends with the Pod. It has ended if the Pod is not in the cache.
func (c *cluster) life(uid types.UID) context.Context {
	c.lives.mu.Lock()
	l, ok := c.lives.uids[uid]
	if !ok {
		l.Context, l.end = context.WithCancelCause(context.Background())
		if c.lives.uids == nil {
			c.lives.uids = map[types.UID]life{}
		}
		c.lives.uids[uid] = l
	}
	c.lives.mu.Unlock()
	// Whoever is told of the end removes it from the cache first. So it ends here where it has been told of already.
	if pod := c.podByUID(uid); pod == nil || !runs(pod) {
		c.lives.end(uid)
	}
	return l
}

func (l *lives) end(uid types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if life, ok := l.uids[uid]; ok {
		life.end(errPodGone)
		delete(l.uids, uid)
	}
}

func (l *lives) endUnless(pod *corev1.Pod, going func(*corev1.Pod) bool) {
	if !going(pod) {
		l.end(pod.UID)
	}
}
