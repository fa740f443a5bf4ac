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
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/node"
)

// controllers run beside the API: on the loopback connection for our own objects, on the host
// cluster for Pods and Jobs.
type controllers struct {
	loopback  *rest.Config
	host      *rest.Config
	namespace string
	options   controller.Options
	times     LeaseTimes
	// released notes of sandboxes and snapshots that they go; nil: nobody does.
	released func(ctx context.Context, going map[types.UID]time.Time) error
}

// controllerShutdown bounds how long reconciles under way may take to end where the program ends.
const controllerShutdown = 10 * time.Second

// Waits between two terms of the controllers, after one that failed.
const (
	firstRestart  = time.Second
	longRestart   = time.Minute
	restartedWell = 10 * time.Minute
)

// lean keeps managedFields out of the caches: a third of an object, which no controller reads.
var lean = cache.TransformStripManagedFields()

// run leads when it is its turn, again and again until ctx ends. Losing the lease, or a failure, ends what runs here and
// nothing else of the process: the API is served on. Each term is made from nothing, after all that the one before had begun
// has ended, so that nothing of it can act any more or be taken for what is known.
func (c *controllers) run(ctx context.Context) {
	ctrl.SetLogger(klog.NewKlogr())
	lease, err := newLease(c.host, c.namespace, c.times)
	if err != nil {
		// The same configuration has made other clients.
		klog.ErrorS(err, "The controllers cannot run")
		return
	}
	runTerms(ctx, clock.RealClock{}, func(ctx context.Context) error { return lease.lead(ctx, c.work) })
}

// runTerms begins a term when the one before has ended, after a wait where it failed.
func runTerms(ctx context.Context, clock clock.WithTicker, term func(context.Context) error) {
	delay := firstRestart
	for {
		began := clock.Now()
		err := term(ctx)
		switch {
		case ctx.Err() != nil:
			if err != nil && !errors.Is(err, context.Canceled) {
				klog.ErrorS(err, "The controllers have not ended well")
			}
			return
		case errors.Is(err, errLeaseLost):
			klog.InfoS("The controllers have ended; waiting for the lease", "why", err.Error())
			delay = firstRestart
			continue
		case clock.Since(began) > restartedWell:
			delay = firstRestart
		}
		klog.ErrorS(err, "The controllers have ended; starting them afresh", "after", delay)
		timer := clock.NewTimer(delay)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return
		}
		delay = min(2*delay, longRestart)
	}
}

// work is a term: it ends with ctx, and returns when all has ended that it began.
func (c *controllers) work(ctx context.Context) error {
	scheme, err := controllerScheme()
	if err != nil {
		return err
	}
	host, err := c.hostCluster(scheme)
	if err != nil {
		return err
	}
	mgr, err := c.manager(scheme)
	if err != nil {
		return err
	}
	if err := mgr.Add(host); err != nil {
		return fmt.Errorf("adding the host cluster to the controllers: %w", err)
	}
	if c.released != nil {
		releases := newReleases(c.released)
		if err := releases.watch(ctx, mgr.GetCache()); err != nil {
			return fmt.Errorf("watching what goes: %w", err)
		}
		if err := mgr.Add(releases); err != nil {
			return fmt.Errorf("setting up the controllers: %w", err)
		}
	}
	if err := controller.Add(ctx, mgr, host, c.options); err != nil {
		return fmt.Errorf("setting up the controllers: %w", err)
	}
	err = mgr.Start(ctx)
	switch {
	case ctx.Err() != nil:
		return nil //nolint:nilerr // the end was asked for; what it cut off has been logged
	case err != nil:
		return fmt.Errorf("running the controllers: %w", err)
	}
	return errors.New("the controllers have ended by themselves")
}

// controllerScheme knows our types and the host's: events about our objects go to the host.
func controllerScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return nil, err
	}
	return scheme, v1alpha1.AddToScheme(scheme)
}

func (c *controllers) manager(scheme *runtime.Scheme) (manager.Manager, error) {
	// The lease waits for all of them, and bounds that itself.
	grace := time.Duration(-1)
	mgr, err := ctrl.NewManager(speakingJSON(c.loopback), manager.Options{
		Scheme: scheme,
		Cache:  cache.Options{DefaultTransform: lean},
		// What there is to know is known here: discovery would race with the start of the server.
		MapperProvider: func(*rest.Config, *http.Client) (apimeta.RESTMapper, error) { return ownMapper(), nil },
		// The API server serves both.
		Metrics:                metricsserver.Options{BindAddress: "0"},
		HealthProbeBindAddress: "0",
		// Each term has controllers of the same names, after those of the last.
		Controller:              config.Controller{SkipNameValidation: ptr.To(true)},
		GracefulShutdownTimeout: &grace,
	})
	if err != nil {
		return nil, fmt.Errorf("making the controllers: %w", err)
	}
	return mgr, nil
}

// speakingJSON is the connection for our group, which speaks nothing else.
func speakingJSON(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	return config
}

// ownMapper maps our two kinds to their resources.
func ownMapper() apimeta.RESTMapper {
	mapper := apimeta.NewDefaultRESTMapper(nil)
	version := v1alpha1.SchemeGroupVersion
	mapper.AddSpecific(version.WithKind("Sandbox"), version.WithResource("sandboxes"), version.WithResource("sandbox"), apimeta.RESTScopeNamespace)
	mapper.AddSpecific(version.WithKind("SandboxSnapshot"), version.WithResource("sandboxsnapshots"), version.WithResource("sandboxsnapshot"), apimeta.RESTScopeNamespace)
	return mapper
}

// hostCluster caches the Pods and Jobs that serve sandboxes, Events about Jobs that get no Pod, and of Nodes what says that they
// are being emptied, and nothing else of the cluster.
func (c *controllers) hostCluster(scheme *runtime.Scheme) (cluster.Cluster, error) {
	ours, err := labels.NewRequirement(v1alpha1.LabelSandboxUID, selection.Exists, nil)
	if err != nil {
		return nil, err
	}
	selector := labels.NewSelector().Add(*ours)
	host, err := cluster.New(limited(c.host), func(o *cluster.Options) {
		o.Scheme = scheme
		o.Cache.DefaultTransform = lean
		o.Cache.ByObject = map[client.Object]cache.ByObject{
			&corev1.Pod{}: {Label: selector},
			&batchv1.Job{}: {
				Label:      selector,
				Namespaces: map[string]cache.Config{c.options.CommitJobNamespace: {}},
			},
			&corev1.Node{}: {Transform: node.Keep},
			&corev1.Event{}: {
				Field:      commitjob.Refusals(),
				Namespaces: map[string]cache.Config{c.options.CommitJobNamespace: {}},
			},
		}
		// Read one by one when they are needed, never listed: least privilege, and memory. Of Nodes the cache has too little
		// for who looks at one.
		o.Client.Cache = &client.CacheOptions{DisableFor: []client.Object{
			&corev1.Secret{}, &corev1.ConfigMap{}, &corev1.Node{}, &corev1.Namespace{},
		}}
	})
	if err != nil {
		return nil, fmt.Errorf("connecting the controllers to the kube-apiserver: %w", err)
	}
	return host, nil
}
