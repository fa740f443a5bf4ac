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
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/healthz"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/kubernetes"
)

// The ConfigMap of the kube-apiserver that says whom to trust: it is written by each kube-apiserver when it starts.
const (
	authenticationNamespace = metav1.NamespaceSystem
	authenticationConfigMap = "extension-apiserver-authentication"
)

// lookUpAuthentication authenticates as genericoptions.DelegatingAuthenticationOptions do that look the certificate
// authorities up in the cluster, but that the server starts where that cannot be done yet: theirs end it, or go on
// without for good. Until it is done nobody is known but the server itself, and readiness says so.
func lookUpAuthentication(o *genericoptions.DelegatingAuthenticationOptions, config *genericapiserver.RecommendedConfig, host *hostCluster) (healthz.HealthChecker, error) {
	connection, err := hostConnection(o.RemoteKubeConfigFile)
	if err != nil {
		return nil, fmt.Errorf("--authentication-kubeconfig: %w", err)
	}
	connection.QPS, connection.Burst = 200, 400 // those of the library's
	client, err := kubernetes.NewForConfig(connection)
	if err != nil {
		return nil, fmt.Errorf("--authentication-kubeconfig: %w", err)
	}
	clients, err := o.ClientCert.GetClientCAContentProvider()
	if err != nil {
		return nil, fmt.Errorf("--client-ca-file: %w", err)
	}
	if clients == nil {
		looked, err := lookUpAuthority(client, "client-ca-file", host)
		if err != nil {
			return nil, err
		}
		clients = looked
	}
	proxies, err := lookUpAuthority(client, "requestheader-client-ca-file", host)
	if err != nil {
		return nil, err
	}
	front := &frontProxy{lookedUpAuthority: proxies, headers: headerrequest.NewRequestHeaderAuthRequestController(
		authenticationConfigMap, authenticationNamespace, client,
		"requestheader-username-headers", "requestheader-uid-headers", "requestheader-group-headers",
		"requestheader-extra-headers-prefix", "requestheader-allowed-names")}
	factory := authenticatorfactory.DelegatingAuthenticatorConfig{
		Anonymous:                          o.Anonymous,
		TokenAccessReviewClient:            client.AuthenticationV1(),
		TokenAccessReviewTimeout:           o.TokenRequestTimeout,
		WebhookRetryBackoff:                o.WebhookRetryBackoff,
		CacheTTL:                           o.CacheTTL,
		ClientCertificateCAContentProvider: clients,
		RequestHeaderConfig: &authenticatorfactory.RequestHeaderConfig{
			CAContentProvider:   front,
			UsernameHeaders:     headerrequest.StringSliceProviderFunc(front.headers.UsernameHeaders),
			UIDHeaders:          headerrequest.StringSliceProviderFunc(front.headers.UIDHeaders),
			GroupHeaders:        headerrequest.StringSliceProviderFunc(front.headers.GroupHeaders),
			ExtraHeaderPrefixes: headerrequest.StringSliceProviderFunc(front.headers.ExtraHeaderPrefixes),
			AllowedClientNames:  headerrequest.StringSliceProviderFunc(front.headers.AllowedClientNames),
		},
	}
	info := &config.Authentication
	info.RequestHeaderConfig = factory.RequestHeaderConfig
	for _, authority := range []dynamiccertificates.CAContentProvider{clients, front} {
		if err := info.ApplyClientCert(authority, config.SecureServing); err != nil {
			return nil, fmt.Errorf("using certificate authority %s: %w", authority.Name(), err)
		}
	}
	authenticator, definitions, err := factory.New()
	if err != nil {
		return nil, fmt.Errorf("making the authentication: %w", err)
	}
	info.Authenticator = authenticator
	if config.OpenAPIConfig != nil {
		config.OpenAPIConfig.SecurityDefinitions = definitions
	}
	return front.readyzCheck(), nil
}

// looksAuthenticationUp says whether the options leave to the cluster whom the server trusts as a proxy.
func looksAuthenticationUp(o *genericoptions.DelegatingAuthenticationOptions) bool {
	return o != nil && !o.SkipInClusterLookup && o.RequestHeader.ClientCAFile == ""
}

// lookedUpAuthority is a certificate authority of the ConfigMap, looked up when the kube-apiserver answers.
type lookedUpAuthority struct {
	*dynamiccertificates.ConfigMapCAController
	host *hostCluster
}

func lookUpAuthority(client kubernetes.Interface, key string, host *hostCluster) (*lookedUpAuthority, error) {
	authority, err := dynamiccertificates.NewDynamicCAFromConfigMapController("client-ca", authenticationNamespace, authenticationConfigMap, key, client)
	if err != nil {
		return nil, fmt.Errorf("looking up certificate authority %s: %w", key, err)
	}
	return &lookedUpAuthority{authority, host}, nil
}

// Run implements dynamiccertificates.ControllerRunner.
func (a *lookedUpAuthority) Run(ctx context.Context, workers int) {
	if a.host.await(ctx.Done()) {
		a.ConfigMapCAController.Run(ctx, workers)
	}
}

// frontProxy is the authority of the proxies that say who is calling, with the headers that they say it in.
type frontProxy struct {
	*lookedUpAuthority
	headers *headerrequest.RequestHeaderAuthRequestController
}

// VerifyOptions implements dynamiccertificates.CAContentProvider. The two halves of the ConfigMap are read apart: without
// the names that are allowed, each that the authority has signed would be.
func (f *frontProxy) VerifyOptions() (x509.VerifyOptions, bool) {
	if len(f.headers.UsernameHeaders()) == 0 {
		return x509.VerifyOptions{}, false
	}
	return f.lookedUpAuthority.VerifyOptions()
}

// Run implements dynamiccertificates.ControllerRunner.
func (f *frontProxy) Run(ctx context.Context, workers int) {
	var running sync.WaitGroup
	running.Go(func() { f.lookedUpAuthority.Run(ctx, workers) })
	running.Go(func() {
		if f.host.await(ctx.Done()) {
			f.headers.Run(ctx, workers)
		}
	})
	running.Wait()
}

func (f *frontProxy) readyzCheck() healthz.HealthChecker {
	return healthz.NamedCheck("authentication-configuration", func(*http.Request) error {
		if _, known := f.VerifyOptions(); !known {
			return errors.New("ConfigMap " + authenticationNamespace + "/" + authenticationConfigMap + " has not been read yet, or names no proxy to trust")
		}
		return nil
	})
}
