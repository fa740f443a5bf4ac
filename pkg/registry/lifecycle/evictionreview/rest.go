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

// Package evictionreview answers kube-apiserver's question whether a Pod may be evicted: one of a sandbox is saved first.
//
// It is asked by a webhook whose address is kube-apiserver itself, and the path of this resource: so kube-apiserver calls
// itself with its own rights, passes the call on as any of our API, and nobody needs a certificate, a port or a way around
// authentication for it. Whoever else may ask is RBAC's to say. The way is that of
// https://github.com/openshift/generic-admission-server; that the Service default/kubernetes is kube-apiserver itself is said in
// https://github.com/kubernetes/kubernetes/blob/v1.37.2/staging/src/k8s.io/apiserver/pkg/util/webhook/authentication.go
package evictionreview

import (
	"context"
	"fmt"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/draining"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/move"
)

// Resource is the name of the resource, as the webhook's path and RBAC have it.
const Resource = "evictionreviews"

// Cluster is the cluster of the Pods, read as it is now. What is not there is a NotFound.
type Cluster interface {
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Node(ctx context.Context, name string) (*corev1.Node, error)
}

// Sandboxes are those that this server knows, by its watch cache.
type Sandboxes interface {
	rest.Getter
	rest.Lister
}

// Own is this server's API.
type Own interface {
	client.Reader
	client.StatusClient
}

// Config is what the resource is made from.
type Config struct {
	Surroundings

	Sandboxes Sandboxes
	Clock     clock.PassiveClock
}

// Surroundings are what there is around the server.
type Surroundings struct {
	// Cluster has the Pods. Nil: every eviction is allowed.
	Cluster Cluster
	// Own reads and writes sandboxes past every cache.
	Own Own
	// Self is the Pod of this server.
	Self Self
	// JobNamespace is where commits run.
	JobNamespace string
}

// REST serves evictionreviews.
type REST struct {
	Config
	asked firstAsked
}

var (
	_ rest.Storage                  = &REST{}
	_ rest.Scoper                   = &REST{}
	_ rest.SingularNameProvider     = &REST{}
	_ rest.Creater                  = &REST{} //nolint:misspell // as Kubernetes spells it
	_ rest.GroupVersionKindProvider = &REST{}
)

// NewREST makes the resource.
func NewREST(config Config) *REST { return &REST{Config: config} }

// New makes the object that a request body is decoded into.
func (*REST) New() runtime.Object { return &admissionv1.AdmissionReview{} }

// Destroy has nothing to do: nothing is stored.
func (*REST) Destroy() {}

// NamespaceScoped is false: the namespace is in the question.
func (*REST) NamespaceScoped() bool { return false }

// GetSingularName names one of them.
func (*REST) GetSingularName() string { return "evictionreview" }

// GroupVersionKind is Kubernetes' own, not one of our group.
func (*REST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return admissionv1.SchemeGroupVersion.WithKind("AdmissionReview")
}

// Create answers a question. Admission is not asked about it: it is a part of the admission of something else.
func (r *REST) Create(ctx context.Context, obj runtime.Object, _ rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	review, ok := obj.(*admissionv1.AdmissionReview)
	if !ok || review.Request == nil {
		return nil, apierrors.NewBadRequest("request: required: what kube-apiserver asks about an eviction")
	}
	asked, err := evictionOf(review.Request)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	answered, err := r.answer(request.WithNamespace(ctx, asked.namespace), asked)
	if err != nil {
		return nil, err
	}
	response := &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: answered.code == 0}
	switch {
	case !response.Allowed:
		response.Result = answered.refusal(asked.pod)
	case answered.message != "":
		response.Warnings = []string{answered.message}
	}
	return &admissionv1.AdmissionReview{Response: response}, nil
}

// patience is for how long a part of the cluster, or etcd, may be away before an eviction of what is known to be a sandbox's is put
// off. kube-apiserver waits for 5 seconds, and lets it pass then.
const patience = 3 * time.Second

// answer looks at what matters, and does what is decided. An error lets the eviction pass.
func (r *REST) answer(ctx context.Context, asked eviction) (answer, error) {
	switch {
	case r.Cluster == nil:
		return answer{}, nil
	case asked.namespace == r.Self.Namespace || asked.namespace == r.JobNamespace:
		return r.answerOwn(ctx, asked)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer came within %s", patience))
	defer cancel()
	// The hook is asked about every eviction of the cluster: of what is none of ours the watch cache knows without a word to etcd;
	// what it does not know yet has not run for longer than that. While it is filled it asks etcd itself.
	obj, err := r.Sandboxes.Get(ctx, asked.pod, &metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		return answer{}, client.IgnoreNotFound(err)
	}
	sandbox := &v1alpha1.Sandbox{}
	if err := r.Own.Get(ctx, client.ObjectKey{Namespace: asked.namespace, Name: asked.pod}, sandbox); err != nil {
		if apierrors.IsNotFound(err) || obj.(*lifecycle.Sandbox).Spec.EvictionPolicy == lifecycle.EvictionPolicyNone {
			return answer{}, nil
		}
		return later("sandbox %s has files that may not be saved, and it could not be read: %v", asked.pod, err), nil
	}
	s := seen{eviction: asked, sandbox: sandbox, now: r.Clock.Now()}
	s.pod, s.emptied, s.unread = r.pod(ctx, asked)
	answered := decide(s)
	if !answered.saves {
		return answered, nil
	}
	noted, err := move.Record(ctx, r.Own, r.Own, client.ObjectKeyFromObject(sandbox), s.request(), s.now)
	switch {
	case err != nil:
		// The files are there, and a server that says so: who evicts can wait, or delete the Pod.
		return later("sandbox %s has files that are not saved, and that they are to be could not be noted: %v", sandbox.Name, err), nil
	case noted != move.Moves:
		return later("sandbox %s has just changed", sandbox.Name), nil
	}
	return answered, nil
}

// pod is the Pod of that name, nil where there is none, and whether its node is being emptied.
func (r *REST) pod(ctx context.Context, asked eviction) (pod *corev1.Pod, emptied bool, err error) {
	pod, err = r.Cluster.Pod(ctx, asked.namespace, asked.pod)
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading Pod %s: %w", asked.pod, err)
	}
	if pod.Spec.NodeName == "" || pod.Annotations[v1alpha1.AnnotationMovedFrom] == "" {
		return pod, false, nil
	}
	emptied, err = r.emptied(ctx, pod.Spec.NodeName)
	return pod, emptied, err
}

// emptied says whether somebody empties a node.
func (r *REST) emptied(ctx context.Context, name string) (bool, error) {
	node, err := r.Cluster.Node(ctx, name)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading Node %s: %w", name, err)
	}
	return len(draining.Causes(node, true)) > 0, nil
}

// on are the sandboxes of a node, as the watch cache knows them.
func (r *REST) on(ctx context.Context, node string) ([]lifecycle.Sandbox, error) {
	list, err := r.Sandboxes.List(request.WithNamespace(ctx, metav1.NamespaceAll), &internalversion.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector(v1alpha1.FieldStatusNodeName, node),
		ResourceVersion: "0",
	})
	if err != nil {
		return nil, err
	}
	return list.(*lifecycle.SandboxList).Items, nil
}
