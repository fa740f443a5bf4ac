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

package controller

import (
	"context"
	"fmt"
	"time"

	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/expiry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/images"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/node"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/podexec"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandbox"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandboxsnapshot"
)

// Add adds the controllers to the manager, which serves our own objects. host is the cluster
// of the Pods and Jobs; its scheme has to know our types too, for events about them.
func Add(ctx context.Context, mgr manager.Manager, host cluster.Cluster, opts Options) error {
	template, err := naming.ParseImageTemplate(opts.SnapshotRegistry, opts.SnapshotImageTemplate)
	if err != nil {
		return fmt.Errorf("--snapshot-image-template: %w", err)
	}
	if err := template.Longest(); err != nil {
		mgr.GetLogger().Info("Sandboxes of long names cannot be paused", "why", err.Error())
	}
	if err := sandboxsnapshot.AddIndexes(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	if err := commitjob.AddIndexes(ctx, host.GetFieldIndexer()); err != nil {
		return err
	}
	exec, err := podexec.New(host.GetConfig())
	if err != nil {
		return err
	}
	jobs := &commitjob.Runner{
		Config: commitjob.Config{
			Namespace:        opts.CommitJobNamespace,
			Image:            opts.CommitterImage,
			PriorityClass:    opts.CommitPriorityClass,
			Timeout:          opts.CommitJobTimeout,
			MaxFrozen:        opts.MaxFrozen,
			ThawAfter:        opts.ThawAfter,
			MaxHoles:         opts.MaxHoles.Value(),
			ResumeCache:      opts.ResumeCache.Value(),
			ContainerdSocket: opts.ContainerdSocketPath,
			ContainerdRoot:   opts.ContainerdRoot,
			PushSecret:       opts.SnapshotPushSecret,
			RegistryCA:       opts.SnapshotRegistryCA,
			RegistryInsecure: opts.SnapshotRegistryInsecure,
			BaseRepository:   template.BaseRepository(opts.SnapshotBaseRepository),
			Proxy:            opts.CommitProxy,
			LayerCompression: opts.LayerCompression,
			RegistryOfNode:   template.OfNode(),
			HostNetwork:      opts.CommitHostNetwork,
		},
		Client: host.GetClient(),
		Live:   host.GetAPIReader(),
		Exec:   exec,
		Logs:   exec,
		Clock:  clock.RealClock{},
	}
	told, err := newRecording(host)
	if err != nil {
		return err
	}
	if err := mgr.Add(told); err != nil {
		return err
	}
	pace := images.NewPace()
	registry := &images.Registry{Config: jobs.Config, Reader: host.GetAPIReader(), Images: template, Pace: pace.Wait, Clock: clock.RealClock{}}
	checker := &images.Checker{
		Client:   mgr.GetClient(),
		Live:     mgr.GetAPIReader(),
		Registry: registry,
		Pace:     pace,
		Recorder: told.NewRecorder(host.GetScheme(), "sandboxsnapshot-controller"),
		Clock:    clock.RealClock{},
	}
	snapshots := &sandboxsnapshot.Reconciler{
		Client:           mgr.GetClient(),
		Live:             mgr.GetAPIReader(),
		HostLive:         host.GetAPIReader(),
		Jobs:             jobs,
		Images:           template,
		Registry:         registry,
		Runtimes:         opts.CommitRuntimes,
		ResumePullSecret: opts.ResumePullSecret,
		MaxPerNode:       opts.MaxCommitsPerNode,
		MaxTotal:         opts.MaxCommits,
		Recorder:         told.NewRecorder(host.GetScheme(), "sandboxsnapshot-controller"),
		Clock:            clock.RealClock{},
	}
	if err := snapshots.Add(mgr, host.GetCache(), limiter()); err != nil {
		return fmt.Errorf("snapshot controller: %w", err)
	}
	if err := mgr.Add(&leading{own: mgr.GetClient(), slotsInUse: snapshots.SlotsInUse, slots: opts.MaxCommits, clock: clock.RealClock{}}); err != nil {
		return fmt.Errorf("metrics of the controllers: %w", err)
	}
	if err := (&sandbox.Reconciler{
		Client:     mgr.GetClient(),
		Live:       mgr.GetAPIReader(),
		Host:       host.GetClient(),
		HostLive:   host.GetAPIReader(),
		Jobs:       jobs,
		Images:     checker,
		PullSecret: opts.ResumePullSecret,
		Guard:      opts.Guard,
		Trial:      &sandbox.Trial{Host: host.GetClient(), Images: template, PullSecret: opts.ResumePullSecret},
		Rescues:    template.Configured(),
		Recorder:   told.NewRecorder(host.GetScheme(), "sandbox-controller"),
		Clock:      clock.RealClock{},
	}).Add(mgr, host.GetCache(), limiter()); err != nil {
		return fmt.Errorf("sandbox controller: %w", err)
	}
	if err := (&expiry.Reconciler{
		Client: mgr.GetClient(), Recorder: told.NewRecorder(host.GetScheme(), "sandbox-controller"), Clock: expiry.Wall{},
	}).Add(mgr, limiter()); err != nil {
		return fmt.Errorf("expiry controller: %w", err)
	}
	if err := (&node.Reconciler{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Host: host.GetCache(), Cordons: opts.MoveOnCordon, Clock: clock.RealClock{},
	}).Add(ctx, mgr, host.GetCache(), limiter()); err != nil {
		return fmt.Errorf("node controller: %w", err)
	}
	if opts.ImageCheckInterval > 0 {
		sweep := &images.Sweep{Client: mgr.GetClient(), Checker: checker, Every: opts.ImageCheckInterval, Clock: clock.RealClock{}}
		if err := sweep.Add(mgr, limiter()); err != nil {
			return fmt.Errorf("checks of the registry: %w", err)
		}
	}
	return nil
}

// limiter spaces out the tries after an error: a conflict is tried again at once, as good as,
// and an API server that is down is not asked more than twice a minute for each object.
func limiter() workqueue.TypedRateLimiter[reconcile.Request] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](20*time.Millisecond, 30*time.Second)
}
