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

package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorfake "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/fake"
	testclock "k8s.io/utils/clock/testing"
)

const certNamespace, certSecret = "sandbox-system", "cert"

type certFixture struct {
	*testing.T
	clock      *testclock.FakeClock
	kube       *kubefake.Clientset
	aggregator *aggregatorfake.Clientset
}

func newCertFixture(t *testing.T) *certFixture {
	return &certFixture{
		T:     t,
		clock: testclock.NewFakeClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)),
		kube:  kubefake.NewClientset(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: certNamespace, Name: certSecret}}),
		aggregator: aggregatorfake.NewClientset(&apiregistrationv1.APIService{
			ObjectMeta: metav1.ObjectMeta{Name: APIServiceName},
		}),
	}
}

// replica starts with a certificate that nobody trusts.
func (f *certFixture) replica() *servingCert {
	return &servingCert{
		kube: f.kube, aggregator: f.aggregator, namespace: certNamespace, secretName: certSecret, clock: f.clock,
		certificate: []byte("temporary"), key: []byte("temporary"),
	}
}

func (f *certFixture) run(replica *servingCert) {
	f.Helper()
	if err := replica.RunOnce(context.Background()); err != nil {
		f.Fatal(err)
	}
}

// verify connects as the kube-apiserver does: by the name of the Service, with the APIService's
// bundle.
func (f *certFixture) verify(replica *servingCert) *x509.Certificate {
	f.Helper()
	pair, err := tls.X509KeyPair(replica.CurrentCertKeyContent())
	if err != nil {
		f.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(f.bundle())
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{
		Roots: roots, DNSName: "sandbox-apiserver.sandbox-system.svc", CurrentTime: f.clock.Now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}); err != nil {
		f.Fatalf("the kube-apiserver does not trust the certificate: %v", err)
	}
	return pair.Leaf
}

func (f *certFixture) bundle() []byte {
	f.Helper()
	apiService, err := f.aggregator.ApiregistrationV1().APIServices().Get(context.Background(), APIServiceName, metav1.GetOptions{})
	if err != nil {
		f.Fatal(err)
	}
	return apiService.Spec.CABundle
}

func TestServingCertIsSharedAndRenewed(t *testing.T) {
	f := newCertFixture(t)
	first, second := f.replica(), f.replica()
	f.run(first)
	f.run(second)
	leaf := f.verify(first)
	if !leaf.Equal(f.verify(second)) {
		t.Fatal("two replicas serve two certificates")
	}
	authority := f.bundle()

	f.clock.Step(certificateLife / 2)
	f.run(first)
	if !leaf.Equal(f.verify(first)) {
		t.Error("renewed with half its life left")
	}

	f.clock.Step(certificateLife / 4)
	f.run(second)
	renewed := f.verify(second)
	if leaf.Equal(renewed) {
		t.Error("not renewed with a quarter of its life left")
	}
	f.verify(first)
	if !bytes.Equal(authority, f.bundle()) {
		t.Error("the authority changed with the certificate")
	}
	f.run(first)
	if !renewed.Equal(f.verify(first)) {
		t.Error("the other replica has not adopted the renewed certificate")
	}
}

func TestServingCertAuthorityIsRenewed(t *testing.T) {
	f := newCertFixture(t)
	first, second := f.replica(), f.replica()
	f.run(first)
	f.clock.Step(authorityLife - certificateLife - 24*time.Hour)
	f.run(first)
	f.run(second)
	old := f.verify(second)

	f.clock.Step(48 * time.Hour)
	f.run(first)
	if f.verify(first).Equal(old) {
		t.Fatal("not renewed although the authority ends before a certificate would")
	}
	// The other replica has not looked yet: the bundle still holds its authority.
	if !f.verify(second).Equal(old) {
		t.Error("the other replica serves something else")
	}
	f.run(second)
	if !f.verify(second).Equal(f.verify(first)) {
		t.Error("the replicas do not agree")
	}
}

func TestServingCertLosesARace(t *testing.T) {
	f := newCertFixture(t)
	winner, loser := f.replica(), f.replica()
	// The same Secrets by another way in: a fake clientset waits for ever where one of its reactors calls it.
	other := &kubefake.Clientset{}
	other.AddReactor("*", "*", clienttesting.ObjectReaction(f.kube.Tracker()))
	winner.kube = other
	raced := false
	f.kube.PrependReactor("update", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		if raced {
			return false, nil, nil
		}
		raced = true
		f.run(winner)
		return true, nil, apierrors.NewConflict(corev1.Resource("secrets"), certSecret, errors.New("modified"))
	})
	if err := loser.RunOnce(context.Background()); !apierrors.IsConflict(err) {
		t.Fatalf("got %v, want a conflict", err)
	}
	f.run(loser)
	if !f.verify(loser).Equal(f.verify(winner)) {
		t.Error("the loser has not adopted the winner's certificate")
	}
}

func TestServingCertWithoutAnAPIService(t *testing.T) {
	f := newCertFixture(t)
	f.aggregator = aggregatorfake.NewClientset()
	replica := f.replica()
	if err := replica.RunOnce(context.Background()); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want that the APIService is not found", err)
	}
	if certificate, _ := replica.CurrentCertKeyContent(); bytes.Equal(certificate, []byte("temporary")) {
		t.Error("still serves the temporary certificate")
	}
}

func TestServingCertRepairsTheSecret(t *testing.T) {
	f := newCertFixture(t)
	replica := f.replica()
	f.run(replica)
	secret, err := f.kube.CoreV1().Secrets(certNamespace).Get(context.Background(), certSecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for key := range secret.Data {
		broken := secret.DeepCopy()
		broken.Data[key] = []byte("broken")
		if _, err := f.kube.CoreV1().Secrets(certNamespace).Update(context.Background(), broken, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		f.run(replica)
		f.verify(replica)
	}
}
