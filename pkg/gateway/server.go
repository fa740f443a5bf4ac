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

// Package gateway serves OpenSandbox's Lifecycle API from the Sandbox API of a cluster, as a client like any other.
package gateway

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/proxy"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/sandboxes"
)

// Config is what a Server needs.
type Config struct {
	// Cluster is the gateway's own way to kube-apiserver.
	Cluster *rest.Config
	// Listen is the address that Run serves.
	Listen string
	// MetricsListen is the address that Run and Serve have /metrics at; empty: none.
	MetricsListen string

	KeysNamespace, KeysName, DefaultNamespace, OpenAs string

	// RouteKeyNamespace and RouteKeyName are the Secret of the key that route tokens are signed with; PublicAddress is what
	// addresses of ports begin with, empty: with the host that the client has named.
	RouteKeyNamespace, RouteKeyName, PublicAddress string

	// Sandboxes is how sandboxes are made.
	Sandboxes sandboxes.Settings

	MaxBody        int64
	RequestTimeout time.Duration
	ShutdownDelay  time.Duration
	ShutdownGrace  time.Duration
}

// Server is the gateway.
type Server struct {
	config        Config
	authenticator *identity.Authenticator
	handler       http.Handler
	// runs work in the background until their context ends; ready says why one cannot yet, or nil.
	runs   []func(context.Context)
	ready  []func() error
	ending atomic.Bool
}

// New returns a Server that works once it runs.
func New(config Config) (*Server, error) {
	authenticator, err := identity.New(identity.Config{
		Config: config.Cluster, KeysNamespace: config.KeysNamespace, KeysName: config.KeysName,
		DefaultNamespace: config.DefaultNamespace, Open: config.OpenAs,
	})
	if err != nil {
		return nil, err
	}
	s := &Server{config: config, authenticator: authenticator}
	s.runs = append(s.runs, authenticator.Run)
	s.ready = append(s.ready, authenticator.Ready)

	ports, err := newProxy(config, authenticator.Middleware)
	if err != nil {
		return nil, err
	}
	s.runs = append(s.runs, ports.Run)
	s.ready = append(s.ready, ports.Ready)

	config.Sandboxes.Seen = ports.Seen
	api, err := generated(handlers{sandboxRoutes: sandboxes.New(config.Sandboxes), portRoutes: ports.Endpoints()})
	if err != nil {
		return nil, fmt.Errorf("preparing the handlers of the API: %w", err)
	}
	document, err := serveDocument()
	if err != nil {
		return nil, err
	}
	s.handler = s.chain(authenticator.Middleware(api), document, ports)
	return s, nil
}

// newProxy is the way into sandboxes.
func newProxy(config Config, authenticate func(http.Handler) http.Handler) (*proxy.Proxy, error) {
	own := rest.CopyConfig(config.Cluster)
	own.QPS = -1 // as for callers
	kube, err := kubernetes.NewForConfig(own)
	if err != nil {
		return nil, fmt.Errorf("preparing the gateway's client of Kubernetes: %w", err)
	}
	lifecycle, err := versioned.NewForConfig(own)
	if err != nil {
		return nil, fmt.Errorf("preparing the gateway's client of the Sandbox API: %w", err)
	}
	return proxy.New(proxy.Config{
		Kube: kube, Lifecycle: lifecycle, Authenticate: authenticate, PublicAddress: config.PublicAddress,
		KeyNamespace: config.RouteKeyNamespace, KeyName: config.RouteKeyName,
	})
}

// chain is every request's way: its id, what becomes of a panic, whether it is for a sandbox itself; else its bounds, and
// who it is from, unless nobody needs to know.
func (s *Server) chain(api http.Handler, document http.HandlerFunc, ports *proxy.Proxy) http.Handler {
	open := map[string]http.HandlerFunc{
		"/health":       get(s.serveHealth),
		"/readyz":       get(s.serveReady),
		"/openapi.json": get(document),
	}
	// No ServeMux: it would answer a path with .. or // by a redirect.
	routed := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if handler, ok := open[r.URL.Path]; ok {
			handler(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
	return withRequest(recovered(ports.Before(bounded(unprefixed(routed), s.config.MaxBody, s.config.RequestTimeout))))
}

func get(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			notAllowed(w, r, "GET,HEAD")
			return
		}
		h(w, r)
	}
}

func (s *Server) serveHealth(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"status":"healthy"}`))
}

func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	if s.ending.Load() {
		answer.Write(w, r, answer.Unavailable("the gateway is ending", nil))
		return
	}
	if err := s.Ready(); err != nil {
		answer.Write(w, r, answer.Unavailable(err.Error(), nil))
		return
	}
	s.serveHealth(w, r)
}

// Ready says why requests cannot be answered yet; nil: they can. That kube-apiserver is away later is for each answer to
// say, and no reason to send requests nowhere.
func (s *Server) Ready() error {
	for _, ready := range s.ready {
		if err := ready(); err != nil {
			return err
		}
	}
	return nil
}

// Handler is the gateway without its listener. It is complete once Start's context runs.
func (s *Server) Handler() http.Handler { return s.handler }

// Start works in the background until the context ends; wait for that with the returned function.
func (s *Server) Start(ctx context.Context) (wait func()) {
	var running sync.WaitGroup
	for _, run := range s.runs {
		running.Go(func() { run(ctx) })
	}
	return running.Wait
}

// Run serves until the context ends, and then until its requests have.
func (s *Server) Run(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.config.Listen)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	return s.Serve(ctx, listener)
}

// Serve is Run on a listener, which it closes.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	defer listener.Close()
	// What works in the background does so until the last request has ended.
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	wait := s.Start(background)
	defer wait()
	defer end()

	_, endMetrics, err := serveMetrics(ctx, s.config.MetricsListen)
	if err != nil {
		return err
	}
	defer endMetrics()

	server := &http.Server{
		Handler:           s.handler,
		ConnContext:       proxy.ConnContext,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	klog.InfoS("Serving the Lifecycle API", "address", listener.Addr().String())

	if err := s.started(ctx, failed); err != nil {
		_ = server.Close()
		return err
	}
	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	s.ending.Store(true)
	klog.InfoS("Ending: requests are taken until they are sent elsewhere", "delay", s.config.ShutdownDelay, "grace", s.config.ShutdownGrace)
	sleep(background, s.config.ShutdownDelay)
	grace, cancel := context.WithTimeout(background, s.config.ShutdownGrace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		klog.ErrorS(err, "Requests that had not ended are cut off")
		_ = server.Close()
	}
	return nil
}

// started waits until the gateway is ready, and says why it must not go on.
func (s *Server) started(ctx context.Context, failed <-chan error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	said := time.Now()
	for {
		err := s.authenticator.Ready()
		if err == nil {
			return s.authenticator.NeedKeys()
		}
		if time.Since(said) > 10*time.Second {
			klog.InfoS("Not ready yet", "why", err.Error())
			said = time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return fmt.Errorf("serving: %w", err)
		}
	}
}

// sleep waits, unless the context ends before.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
