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

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// bench is one control plane with one number of sandboxes.
type bench struct {
	options   *options
	cluster   *cluster
	registry  *http.Server
	board     *board
	watchers  *watchers
	commits   *commitLog
	sandboxes []cache.ObjectName
	// stop ends what runs in this process.
	stop context.CancelCauseFunc
}

// latecomer is the only sandbox of its namespace, paused when all others wait for their turn.
var latecomer = cache.NewObjectName("bench-late", "late")

// measure runs one size from nothing to nothing.
func measure(ctx context.Context, o *options, size int, say reporter) (*sizeResult, error) {
	ctx, stop := context.WithCancelCause(ctx)
	b := &bench{options: o, commits: newCommitLog(), stop: stop}
	defer b.close()
	if err := b.start(ctx, size, say); err != nil {
		return nil, fmt.Errorf("%d sandboxes: %w", size, err)
	}
	result := &sizeResult{Sandboxes: size}
	for _, step := range []struct {
		name string
		do   func(context.Context, *sizeResult) error
	}{
		{"a first pause and resume, not counted", b.warmUp},
		{"one after the other", b.steadily},
		{"all at once", b.allAtOnce},
		{"what there is now", b.weigh},
		{killing, b.killInTheMiddle},
	} {
		if step.name == killing && size != o.sizes[0] {
			continue
		}
		say("%d sandboxes: %s", size, step.name)
		if err := b.board.tell(ctx, say, func() error { return step.do(ctx, result) }); err != nil {
			return nil, fmt.Errorf("%d sandboxes, %s: %w", size, step.name, err)
		}
	}
	return result, nil
}

// start brings everything up to where the sandboxes run and are watched.
func (b *bench) start(ctx context.Context, size int, say reporter) error {
	o := b.options
	dir, err := newDirectory(filepath.Join(o.dir, fmt.Sprint(size)))
	if err != nil {
		return err
	}
	var registry string
	if b.registry, registry, err = startRegistry(); err != nil {
		return err
	}
	say("%d sandboxes: starting etcd, kube-apiserver and sandbox-apiserver", size)
	if b.cluster, err = startCluster(ctx, o, dir, registry); err != nil {
		return err
	}
	b.cluster.whenOneEnds(b.stop)
	nodes := &nodes{kube: b.cluster.kube, count: o.nodes, commitTime: o.commitTime, digest: pretendedDigest(), commits: b.commits}
	if err := nodes.start(ctx); err != nil {
		return err
	}
	namespaces, err := b.makeNamespaces(ctx)
	if err != nil {
		return err
	}
	if b.board, err = b.cluster.startBoard(ctx, b.commits); err != nil {
		return err
	}
	for i := range size {
		b.sandboxes = append(b.sandboxes, cache.NewObjectName(namespaces[i%len(namespaces)], fmt.Sprintf("sandbox-%05d", i)))
	}
	say("%d sandboxes: creating them", size)
	err = b.board.tell(ctx, say, func() error {
		return each(ctx, append([]cache.ObjectName{latecomer}, b.sandboxes...), o.inFlight, b.create)
	})
	if err != nil {
		return err
	}
	say("%d sandboxes: %d watchers", size, o.watchers)
	b.watchers, err = b.cluster.startWatchers(ctx, o.watchers, namespaces)
	return err
}

func (b *bench) close() {
	b.stop(nil)
	if b.watchers != nil {
		b.watchers.running.Wait()
	}
	if b.cluster != nil {
		b.cluster.stop()
	}
	if b.registry != nil {
		_ = b.registry.Close()
	}
}

// makeNamespaces returns those of the sandboxes; that of the latecomer is not among them.
func (b *bench) makeNamespaces(ctx context.Context) ([]string, error) {
	var names []string
	for i := range b.options.namespaces {
		names = append(names, fmt.Sprintf("bench-%03d", i))
	}
	core := b.cluster.kube.CoreV1()
	for _, name := range append([]string{latecomer.Namespace}, names...) {
		_, namespaceErr := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		_, accountErr := core.ServiceAccounts(name).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		if err := errors.Join(namespaceErr, accountErr); err != nil {
			return nil, fmt.Errorf("make namespace %s: %w", name, err)
		}
	}
	return names, nil
}

// warmUp opens every connection and fills every pool.
func (b *bench) warmUp(ctx context.Context, _ *sizeResult) error {
	first := b.sandboxes[:min(len(b.sandboxes), b.options.inFlight)]
	for _, verb := range []verb{pause, resume} {
		if err := each(ctx, first, b.options.inFlight, b.carryOut(verb, &times{})); err != nil {
			return err
		}
	}
	return b.settle(ctx)
}

// steadily keeps so many verbs under way at any time, the same for every size.
func (b *bench) steadily(ctx context.Context, result *sizeResult) error {
	sample := b.sandboxes[:min(len(b.sandboxes), b.options.steady)]
	rounds := max(1, b.options.steady/len(sample))
	all := map[verb][]phaseResult{}
	for range rounds {
		for _, verb := range []verb{pause, resume} {
			t := &times{}
			measured, err := b.phase(ctx, t, len(sample), func() error {
				return each(ctx, sample, b.options.inFlight, b.carryOut(verb, t))
			})
			if err != nil {
				return err
			}
			all[verb] = append(all[verb], measured)
		}
	}
	result.SteadyPause, result.SteadyResume = median(all[pause]), median(all[resume])
	return nil
}

// allAtOnce asks for all before it waits for any; one more comes last, from a namespace of its own.
func (b *bench) allAtOnce(ctx context.Context, result *sizeResult) error {
	rounds := max(1, b.options.burst/len(b.sandboxes))
	all := map[verb][]phaseResult{}
	for range rounds {
		for _, verb := range []verb{pause, resume} {
			t := &times{}
			measured, err := b.phase(ctx, t, len(b.sandboxes)+1, func() error { return b.rush(ctx, verb, t, result) })
			if err != nil {
				return err
			}
			all[verb] = append(all[verb], measured)
		}
	}
	result.BurstPause, result.BurstResume = median(all[pause]), median(all[resume])
	return nil
}

func (b *bench) rush(ctx context.Context, verb verb, t *times, result *sizeResult) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	ask := func(_ context.Context, sandbox cache.ObjectName) error {
		begin := time.Now()
		answered, err := b.post(ctx, verb, sandbox)
		if err != nil {
			return err
		}
		waiting.Go(func() {
			if err := b.board.await(ctx, sandbox, verb.target); err != nil {
				cancel(err)
				return
			}
			t.add(answered, time.Since(begin))
		})
		return nil
	}
	if err := each(ctx, b.sandboxes, b.options.clients, ask); err != nil {
		cancel(err)
		return err
	}
	front := b.board.census()[v1alpha1.SandboxPausing]
	b.board.forgetQueue()
	if err := ask(ctx, latecomer); err != nil {
		cancel(err)
		return err
	}
	waiting.Wait()
	if err := context.Cause(ctx); err != nil || verb == resume {
		return err
	}
	late := lateness{Waiting: front}
	if since, waited := b.board.queuedAt(latecomer); waited {
		before, err := b.commits.before(since, latecomer.Namespace)
		if err != nil {
			return err
		}
		late.Before = before
	}
	result.Latecomer = append(result.Latecomer, late)
	return nil
}

// phase measures what a number of verbs take and cost.
func (b *bench) phase(ctx context.Context, t *times, verbs int, do func() error) (phaseResult, error) {
	from, err := b.read(ctx)
	if err != nil {
		return phaseResult{}, err
	}
	if err := do(); err != nil {
		return phaseResult{}, err
	}
	took := time.Since(from.at)
	if err := b.settle(ctx); err != nil {
		return phaseResult{}, fmt.Errorf("the sandboxes do not come to rest: %w", err)
	}
	to, err := b.read(ctx)
	if err != nil {
		return phaseResult{}, err
	}
	return phaseResult{
		Verbs: verbs, Seconds: took.Seconds(),
		Answered: percentile(t.answered, 50), AnsweredP99: percentile(t.answered, 99),
		Done: percentile(t.done, 50), DoneP99: percentile(t.done, 99),
		Cost: costOf(from, to, verbs),
	}, nil
}

// weigh looks at what is left when nothing happens.
func (b *bench) weigh(ctx context.Context, result *sizeResult) error {
	now, err := b.read(ctx)
	if err != nil {
		return err
	}
	bytes, err := b.stored(ctx)
	if err != nil {
		return err
	}
	result.StoredBytes = float64(bytes) / float64(len(b.sandboxes))
	result.ServerMemory = megabytes(now.server.sum("process_resident_memory_bytes"))
	result.StoreMemory = megabytes(now.store.sum("process_resident_memory_bytes"))
	result.Reconnects = b.watchers.reconnects.Load()
	result.MostCommits, result.MostCommitsOnNode = b.commits.highest()
	return nil
}
