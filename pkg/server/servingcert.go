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
	"fmt"
	"maps"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	"k8s.io/utils/clock"
)

// Keys of the Secret. Those of the certificate are a TLS Secret's, so that tools can read it.
const (
	secretAuthorities  = "ca.crt"
	secretAuthorityKey = "ca.key"
	secretCertificate  = "tls.crt"
	secretKey          = "tls.key"
)

const (
	// certificateCheck is how often the Secret and the APIService are looked at, and how long a
	// replica takes to adopt what another has renewed.
	certificateCheck = time.Minute
	// certificateAttempt bounds one look, so that the server starts while the kube-apiserver is away.
	certificateAttempt = 10 * time.Second
)

// servingCert keeps the server's certificate in a Secret, renews it, and tells the APIService
// which authority the kube-apiserver shall verify it with.
type servingCert struct {
	kube       kubernetes.Interface
	aggregator aggregator.Interface
	namespace  string
	secretName string
	clock      clock.WithTicker
	// reached is closed when the kube-apiserver has answered once.
	reached <-chan struct{}

	mu               sync.RWMutex
	certificate, key []byte
	// own is false as long as the certificate is the one to start with, which nobody trusts.
	own       bool
	listeners []dynamiccertificates.Listener
}

var (
	_ dynamiccertificates.CertKeyContentProvider = &servingCert{}
	_ dynamiccertificates.ControllerRunner       = &servingCert{}
)

// Name identifies the provider in logs.
func (s *servingCert) Name() string { return "secret/" + s.namespace + "/" + s.secretName }

// CurrentCertKeyContent returns what to serve with.
func (s *servingCert) CurrentCertKeyContent() (certificate, key []byte) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.certificate, s.key
}

// AddListener registers who is told of a change.
func (s *servingCert) AddListener(listener dynamiccertificates.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners = append(s.listeners, listener)
}

// RunOnce brings Secret, APIService and what is served to where they should be.
// While the kube-apiserver has not been reached, that is what it waits for.
func (s *servingCert) RunOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, certificateAttempt)
	defer cancel()
	return s.sync(ctx)
}

// Run does so again and again until ctx ends.
func (s *servingCert) Run(ctx context.Context, _ int) {
	backoff := wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.1, Steps: 7, Cap: certificateCheck}
	failing := backoff.DelayFunc()
	if !awaitEither(s.reached, ctx.Done()) {
		return
	}
	told := ""
	for {
		delay := certificateCheck
		if err := s.RunOnce(ctx); err != nil {
			if what := withoutOwnAddress(err).Error(); what != told {
				told = what
				klog.ErrorS(err, "The serving certificate is not as it should be; trying again")
			}
			delay = failing()
		} else {
			failing, told = backoff.DelayFunc(), ""
		}
		timer := s.clock.NewTimer(delay)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

func (s *servingCert) sync(ctx context.Context) error {
	pair, err := s.stored(ctx)
	if err != nil {
		return err
	}
	registered := s.register(ctx, pair.authorities)
	// A new authority is served only after the kube-apiserver knows it; but any is better than one
	// that nobody trusts, which is what there is at the start.
	s.mu.RLock()
	own := s.own
	s.mu.RUnlock()
	if registered == nil || !own {
		s.serve(pair)
	}
	return registered
}

// stored returns the pair in the Secret, after renewing it there.
func (s *servingCert) stored(ctx context.Context) (keyPair, error) {
	secrets := s.kube.CoreV1().Secrets(s.namespace)
	secret, err := secrets.Get(ctx, s.secretName, metav1.GetOptions{})
	if err != nil {
		return keyPair{}, fmt.Errorf("reading Secret %s/%s: %w", s.namespace, s.secretName, err)
	}
	pair := keyPair{
		authorities:  secret.Data[secretAuthorities],
		authorityKey: secret.Data[secretAuthorityKey],
		certificate:  secret.Data[secretCertificate],
		key:          secret.Data[secretKey],
	}
	pair, changed, err := pair.renewed(s.clock.Now(), s.names())
	if err != nil || !changed {
		return pair, err
	}
	secret = secret.DeepCopy()
	secret.Data = maps.Clone(secret.Data)
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	secret.Data[secretAuthorities] = pair.authorities
	secret.Data[secretAuthorityKey] = pair.authorityKey
	secret.Data[secretCertificate] = pair.certificate
	secret.Data[secretKey] = pair.key
	// Of several replicas that renew at once, the resourceVersion lets one win. The others fail
	// here, come back soon, and find a pair that needs no renewal.
	if _, err := secrets.Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
		return keyPair{}, fmt.Errorf("writing Secret %s/%s: %w", s.namespace, s.secretName, err)
	}
	klog.InfoS("Renewed the serving certificate", "secret", klog.KRef(s.namespace, s.secretName))
	return pair, nil
}

// names are what the certificate is for. The kube-apiserver calls the first.
func (s *servingCert) names() []string {
	service := ServiceName + "." + s.namespace + ".svc"
	return []string{service, service + ".cluster.local", "localhost"}
}

// register tells the APIService whom to trust.
func (s *servingCert) register(ctx context.Context, authorities []byte) error {
	apiServices := s.aggregator.ApiregistrationV1().APIServices()
	apiService, err := apiServices.Get(ctx, APIServiceName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading APIService %s: %w", APIServiceName, err)
	}
	if bytes.Equal(apiService.Spec.CABundle, authorities) {
		return nil
	}
	apiService = apiService.DeepCopy()
	apiService.Spec.CABundle = authorities
	if _, err := apiServices.Update(ctx, apiService, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("writing the authority into APIService %s: %w", APIServiceName, err)
	}
	klog.InfoS("Told the APIService which authority to trust", "apiService", APIServiceName)
	return nil
}

func (s *servingCert) serve(pair keyPair) {
	s.mu.Lock()
	same := bytes.Equal(s.certificate, pair.certificate) && bytes.Equal(s.key, pair.key)
	s.certificate, s.key, s.own = pair.certificate, pair.key, true
	listeners := s.listeners
	s.mu.Unlock()
	if same {
		return
	}
	for _, listener := range listeners {
		listener.Enqueue()
	}
}
