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

package integration

import (
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	k8stesting "k8s.io/client-go/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clientfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/server"
)

// ownServer is a server for one test, with options of its own.
func ownServer(t *testing.T, change func(*server.Options)) *fixture {
	t.Helper()
	return serverIn(t, shortTempDir(t), change)
}

// admitting is the server of all tests of admission: one whose plugins ask a cluster in memory.
var admitting = sync.OnceValues(func() (*admittingServer, error) {
	kube := kubefake.NewSimpleClientset()
	versionQuotas(kube)
	kube.Resources = []*metav1.APIResourceList{{
		GroupVersion: "admissionregistration.k8s.io/v1", APIResources: []metav1.APIResource{{Name: "validatingadmissionpolicies"}},
	}}
	dir, err := os.MkdirTemp("", "sbx")
	if err != nil {
		return nil, err
	}
	known := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(known), v1alpha1.AddToScheme(known)); err != nil {
		return nil, err
	}
	host := &countingReader{Client: clientfake.NewClientBuilder().WithScheme(known).Build()}
	var options *server.Options
	configure := func(o *server.Options) {
		options = o
		o.Controller.SnapshotRegistry = "registry.example.com"
		o.Controller.SnapshotPushSecret, o.Controller.CommitJobNamespace = "push", "sandbox-system"
		o.Standalone.Host = host
		// It wants an OpenAPI document that the cluster in memory has not.
		o.Recommended.Admission.DisablePlugins = []string{"MutatingAdmissionPolicy"}
		o.Standalone.Admission = &server.StandaloneAdmission{Kube: kube, Dynamic: dynamicfake.NewSimpleDynamicClient(scheme.Scheme)}
	}
	served, err := start(dir, configure)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	atEnd = append(atEnd, func() error { return errors.Join(served.stop(), os.RemoveAll(dir)) })
	etcd := options.Recommended.Etcd.StorageConfig.Transport.ServerList
	return &admittingServer{running: served, kube: kube, host: host, replica: func() (*running, error) {
		return start("", func(o *server.Options) {
			configure(o)
			o.Recommended.Etcd.StorageConfig.Transport.ServerList = etcd
		})
	}}, nil
})

type admittingServer struct {
	*running
	kube *kubefake.Clientset
	// host is what dry runs of pauses look at.
	host *countingReader
	// replica starts another server over the same etcd and beside the same cluster.
	replica func() (*running, error)
}

// replicaFixture is the test's namespace on another replica of that server. No replica of these
// tests leads: what they do, they do without the controllers.
func replicaFixture(t *testing.T) *fixture {
	t.Helper()
	served, err := admitting()
	if err != nil {
		t.Fatal(err)
	}
	replica, err := served.replica()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := replica.stop(); err != nil {
			t.Error(err)
		}
	})
	return fixtureOn(t, replica)
}

// countingReader counts how often it is read.
type countingReader struct {
	client.Client
	reads atomic.Int64
}

func (c *countingReader) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	c.reads.Add(1)
	return c.Client.Get(ctx, key, object, options...)
}

// admittingFixture is the test's namespace on that server.
func admittingFixture(t *testing.T) (*fixture, *kubefake.Clientset) {
	t.Helper()
	served, err := admitting()
	if err != nil {
		t.Fatal(err)
	}
	f := fixtureOn(t, served.running)
	// The label is what kube-apiserver adds.
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: f.namespace, Labels: map[string]string{corev1.LabelMetadataName: f.namespace}}}
	_, err = served.kube.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{})
	f.must(err)
	return f, served.kube
}

// here selects the test's namespace.
func (f *fixture) here() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: f.namespace}}
}

// versionQuotas makes the cluster in memory keep the versions of quotas as a real one does: it
// refuses an update of another version than the last.
func versionQuotas(kube *kubefake.Clientset) {
	quotas := corev1.SchemeGroupVersion.WithResource("resourcequotas")
	version := 1
	kube.PrependReactor("update", "resourcequotas", func(action k8stesting.Action) (bool, runtime.Object, error) {
		given := action.(k8stesting.UpdateAction).GetObject().(*corev1.ResourceQuota)
		stored, err := kube.Tracker().Get(quotas, given.Namespace, given.Name)
		if err != nil {
			return true, nil, err
		}
		if stored.(*corev1.ResourceQuota).ResourceVersion != given.ResourceVersion {
			return true, nil, apierrors.NewConflict(quotas.GroupResource(), given.Name, errors.New("another was faster"))
		}
		version++
		given.ResourceVersion = strconv.Itoa(version)
		return true, given, kube.Tracker().Update(quotas, given, given.Namespace)
	})
}
