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
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	"k8s.io/utils/clock"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/apiserver"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/apiserver/scheme"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/server/collector"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/server/room"
)

// Server is the whole program, started by Run.
type Server struct {
	options *Options
	generic *apiserver.Server

	// etcd is nil where the store is a cluster of its own.
	etcd *embeddedEtcd
	gate *storeGate
	// keeper keeps house in etcd. Nil where that is a cluster of its own.
	keeper *room.Keeper
	// host is nil where there is no cluster around the server.
	host *hostCluster
	// identity is nil where any store will do.
	identity    *storeIdentity
	controllers *controllers
	// guard is nil where there is no cluster around the server.
	guard *collector.Guard

	// stop ends everything, with the error that the program ends with.
	stop context.CancelCauseFunc
}

// Run serves until ctx ends or something fails that the server cannot go on without.
func Run(ctx context.Context, options *Options) error {
	server, err := New(ctx, options)
	if err != nil {
		return err
	}
	return server.Run(ctx)
}

// New starts the store and makes the server. The options must be complete and valid. A server
// that was made must be run: only that ends its store.
func New(ctx context.Context, options *Options) (_ *Server, err error) {
	s := &Server{options: options, gate: newStoreGate()}
	defer func() {
		if err != nil {
			s.stopStore()
		}
	}()
	if options.embedsEtcd() {
		if s.etcd, err = startEtcd(ctx, options.DataDir, options.StoreQuota.Value()); err != nil {
			return nil, err
		}
		options.Recommended.Etcd.StorageConfig.Transport.ServerList = []string{s.etcd.endpoint()}
		s.keeper = s.etcd.keeper(options.DataDir, options.Recommended.Etcd.StorageConfig.Prefix)
	}

	generic, err := s.genericConfig()
	if err != nil {
		return nil, err
	}
	if err := s.connectHost(generic); err != nil {
		return nil, err
	}
	own, host, err := s.answering(generic)
	if err != nil {
		return nil, err
	}
	preflight, err := s.newPreflight(own, host)
	if err != nil {
		return nil, err
	}
	extra := apiserver.ExtraConfig{Preflight: preflight, Evictions: s.newEvictions(own, host)}
	if s.keeper != nil {
		extra.Room = s.keeper
	}
	s.generic, err = (&apiserver.Config{GenericConfig: generic, ExtraConfig: extra}).Complete().New()
	if err != nil {
		return nil, err
	}
	installMetrics(s.generic.Handler.NonGoRestfulMux)
	if err := s.addHooks(); err != nil {
		return nil, err
	}
	return s, nil
}

// Loopback is a connection to the server with all rights.
func (s *Server) Loopback() *rest.Config { return rest.CopyConfig(s.generic.LoopbackClientConfig) }

// Run serves until ctx ends or something fails, and ends the store last.
func (s *Server) Run(ctx context.Context) error {
	defer s.stopStore()
	ctx, s.stop = context.WithCancelCause(ctx)
	defer s.stop(nil)
	if s.etcd != nil {
		go func() {
			select {
			case err, open := <-s.etcd.failed():
				if open {
					s.stop(fmt.Errorf("the embedded etcd has ended: %w", err))
				}
			case <-ctx.Done():
			}
		}()
	}
	if err := s.generic.PrepareRun().RunWithContext(ctx); err != nil {
		return err
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

func (s *Server) stopStore() {
	if s.identity != nil {
		_ = s.identity.etcd.Close()
	}
	if s.etcd != nil {
		s.etcd.stop()
	}
}

// genericConfig applies the options to the configuration of the generic server.
func (s *Server) genericConfig() (*genericapiserver.RecommendedConfig, error) {
	o := s.options
	config := genericapiserver.NewRecommendedConfig(scheme.Codecs)
	config.OpenAPIConfig = apiserver.OpenAPIConfig()
	config.OpenAPIV3Config = apiserver.OpenAPIV3Config()
	// installMetrics serves them together with those of the controllers.
	config.EnableMetrics = false
	config.BuildHandlerChainFunc = func(handler http.Handler, c *genericapiserver.Config) http.Handler {
		handler = apiserver.WithVerbRequests(handler)
		handler = apiserver.WithClientFaults(handler)
		handler = withStoreGate(handler, s.gate)
		return genericapiserver.DefaultBuildHandlerChain(handler, c)
	}
	config.AddReadyzChecks(s.gate.readyzCheck())

	if err := o.Run.DefaultAdvertiseAddress(o.Recommended.SecureServing.SecureServingOptions); err != nil {
		return nil, fmt.Errorf("--advertise-address: %w", err)
	}
	if err := o.Run.ApplyTo(&config.Config); err != nil {
		return nil, err
	}
	if err := o.Recommended.SecureServing.MaybeDefaultWithSelfSignedCerts("localhost", nil, nil); err != nil {
		return nil, fmt.Errorf("making a self-signed certificate: %w", err)
	}
	recommended := *o.Recommended
	if o.Standalone == nil {
		if err := s.waitForHost(&recommended, config); err != nil {
			return nil, err
		}
	}
	if err := recommended.ApplyTo(config); err != nil {
		return nil, err
	}
	if o.Standalone == nil && looksAuthenticationUp(o.Recommended.Authentication) {
		check, err := lookUpAuthentication(o.Recommended.Authentication, config, s.host)
		if err != nil {
			return nil, err
		}
		config.AddReadyzChecks(check)
	}
	if o.Standalone != nil {
		config.Authentication.Authenticator = o.Standalone.Authenticator
		config.Authorization.Authorizer = o.Standalone.Authorizer
		if o.Standalone.Admission != nil {
			s.host = newHostCluster(o.Standalone.Admission.Kube.Discovery(), mutatingPolicies, validatingPolicies)
			config.AddReadyzChecks(s.host.readyzCheck())
			if err := o.Standalone.Admission.applyTo(config, s.host); err != nil {
				return nil, err
			}
		}
	}
	// Nobody calls the server by its own address but itself; clients come through the aggregator.
	config.DiscoveryAddresses = discovery.DefaultAddresses{DefaultAddress: config.ExternalAddress}
	return config, nil
}

// waitForHost changes options so that what is applied from them does not need the kube-apiserver to be there.
func (s *Server) waitForHost(recommended *genericoptions.RecommendedOptions, config *genericapiserver.RecommendedConfig) error {
	connection, err := hostConnection(recommended.CoreAPI.CoreAPIKubeconfigPath)
	if err != nil {
		return fmt.Errorf("connecting to the kube-apiserver: %w", err)
	}
	client, err := kubernetes.NewForConfig(rest.AddUserAgent(connection, ServiceName))
	if err != nil {
		return fmt.Errorf("connecting to the kube-apiserver: %w", err)
	}
	s.host = newHostCluster(client.Discovery(), mutatingPolicies, validatingPolicies)
	config.AddReadyzChecks(s.host.readyzCheck())
	if looksAuthenticationUp(recommended.Authentication) {
		recommended.Authentication = nil // applied apart
	}
	// The last moment before the plugins get their informers.
	initializers := recommended.ExtraAdmissionInitializers
	recommended.ExtraAdmissionInitializers = func(config *genericapiserver.RecommendedConfig) ([]admission.PluginInitializer, error) {
		watchParamsApart(config)
		if config.SharedInformerFactory != nil {
			config.SharedInformerFactory = newHostInformers(config.SharedInformerFactory, client, s.host)
		}
		patient, err := newPatientClient(config.ClientConfig, s.host)
		if err != nil {
			return nil, err
		}
		others, err := initializers(config)
		return append([]admission.PluginInitializer{patient}, others...), err
	}
	admissionOptions := *recommended.Admission
	admissionOptions.Decorators = append(admission.Decorators{leaveOutUnserved(s.host)}, admissionOptions.Decorators...)
	recommended.Admission = &admissionOptions
	return nil
}

// connectHost sets up what needs the cluster around the server.
func (s *Server) connectHost(config *genericapiserver.RecommendedConfig) error {
	o := s.options
	var client kubernetes.Interface
	if o.Standalone != nil {
		client = o.Standalone.Client
	} else {
		host := rest.CopyConfig(config.ClientConfig)
		host.QPS, host.Burst = o.KubeAPIQPS, o.KubeAPIBurst
		host = rest.AddUserAgent(host, ServiceName)
		kube, err := kubernetes.NewForConfig(host)
		if err != nil {
			return fmt.Errorf("connecting to the kube-apiserver: %w", err)
		}
		client = kube
		s.controllers = &controllers{host: host, namespace: o.Namespace, options: o.Controller, times: o.LeaderElection}
		if o.keepsCertificate() {
			registrations, err := aggregator.NewForConfig(host)
			if err != nil {
				return fmt.Errorf("connecting to the kube-apiserver: %w", err)
			}
			certificate, key := config.SecureServing.Cert.CurrentCertKeyContent()
			config.SecureServing.Cert = &servingCert{
				kube: kube, aggregator: registrations, namespace: o.Namespace, secretName: o.ServingCertSecret,
				clock: clock.RealClock{}, certificate: certificate, key: key, reached: s.host.reached,
			}
		}
	}
	if client == nil {
		s.gate.open()
		return nil
	}
	etcd, err := s.newEtcdClient()
	if err != nil {
		return err
	}
	if s.host != nil {
		s.host.tell = func(what string) { s.gate.wait("the identity of the store is not yet confirmed: " + what) }
	}
	s.identity = &storeIdentity{
		etcd:      etcd,
		key:       o.Recommended.Etcd.StorageConfig.Prefix + ".store-id",
		markKey:   o.Recommended.Etcd.StorageConfig.Prefix + ".store-mark",
		client:    client,
		namespace: o.Namespace,
		acceptNew: o.AcceptNewStorage,
		gate:      s.gate,
		end:       func(err error) { s.stop(err) },
		clock:     clock.RealClock{},
	}
	s.guard = collector.NewGuard(client, s.identity.tell)
	s.identity.unguarded = s.guard.Look
	if s.controllers != nil {
		s.controllers.options.Guard = s.guard
		s.controllers.released = s.identity.release
	}
	if s.etcd != nil {
		s.keeper.Tell = s.identity.tell
		s.identity.advance = func(revision int64) error { return askForRevision(o.DataDir, revision) }
	}
	return nil
}

func (s *Server) newEtcdClient() (*clientv3.Client, error) {
	transport := s.options.Recommended.Etcd.StorageConfig.Transport
	tls, err := etcdTLS(transport.CertFile, transport.KeyFile, transport.TrustedCAFile)
	if err != nil {
		return nil, err
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: transport.ServerList, TLS: tls, DialTimeout: 20 * time.Second, Logger: quiet()})
	if err != nil {
		return nil, fmt.Errorf("connecting to etcd: %w", err)
	}
	return client, nil
}

// addHooks starts, once the API is served, what uses it, and ends that before the API.
func (s *Server) addHooks() error {
	work := &background{}
	work.ctx, work.cancel = context.WithCancel(context.Background())
	if err := s.generic.AddPostStartHook("sandbox-controllers", func(genericapiserver.PostStartHookContext) error {
		// A hook that has not returned keeps the server from being ready: all go on by themselves.
		if s.keeper != nil {
			work.running.Go(func() { s.keeper.Run(work.ctx) })
		}
		if s.host != nil {
			work.running.Go(func() { s.host.run(work.ctx) })
		}
		if s.host != nil && s.identity != nil {
			work.running.Go(func() { s.host.tellWarning(work.ctx, s.identity.tell) })
		}
		if s.identity != nil {
			work.running.Go(func() {
				if s.host == nil || s.host.await(work.ctx.Done()) {
					s.identity.confirm(work.ctx)
				}
			})
		}
		if s.controllers != nil {
			work.running.Go(func() {
				if s.host == nil || s.host.await(work.ctx.Done()) {
					s.guard.Run(work.ctx)
				}
			})
		}
		if s.controllers != nil && s.options.RunControllers {
			work.running.Go(func() { s.runControllers(work.ctx) })
		}
		return nil
	}); err != nil {
		return err
	}
	return s.generic.AddPreShutdownHook("sandbox-controllers", func() error {
		work.cancel()
		work.running.Wait()
		return nil
	})
}

// background is what runs beside the API.
type background struct {
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// runControllers runs them as soon as the store is confirmed, and it is known whom the Pods may belong to.
func (s *Server) runControllers(ctx context.Context) {
	for _, awaited := range []<-chan struct{}{s.gate.confirmed(), s.guard.Known()} {
		select {
		case <-awaited:
		case <-ctx.Done():
			return
		}
	}
	s.controllers.loopback = s.Loopback()
	s.controllers.run(ctx)
}
