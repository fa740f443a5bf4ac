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
	"fmt"
	"math"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/util/wait"
)

// reading is what the programs have counted since they started.
type reading struct {
	at                  time.Time
	server, store, kube metrics
	// host is the address of the kube-apiserver.
	host string
	// events and eventBytes are what the watchers got.
	events, eventBytes int64
}

const ourGroup = "lifecycle.opensandbox.io"

func (b *bench) read(ctx context.Context) (*reading, error) {
	r := &reading{at: time.Now(), host: strings.TrimPrefix(b.cluster.config.Host, "https://"), events: b.watchers.events.Load(), eventBytes: b.watchers.bytes.Load()}
	for _, page := range []struct {
		endpoint *metricsEndpoint
		into     *metrics
	}{{b.cluster.server, &r.server}, {b.cluster.store, &r.store}, {b.cluster.kubeMetrics, &r.kube}} {
		var err error
		if *page.into, err = page.endpoint.read(ctx); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// writes are the keys that etcd has put and deleted.
func (r *reading) writes() float64 {
	return r.store.sum("etcd_mvcc_put_total") + r.store.sum("etcd_mvcc_delete_total")
}

// settle waits until nothing more is written for the sandboxes, so that all that the last verbs
// caused is in the next reading.
func (b *bench) settle(ctx context.Context) error {
	last, quiet := -1.0, 0
	return wait.PollUntilContextTimeout(ctx, 500*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		store, err := b.cluster.store.read(ctx)
		if err != nil {
			return false, err
		}
		writes := (&reading{store: store}).writes()
		if writes == last {
			quiet++
		} else {
			last, quiet = writes, 0
		}
		return quiet >= 3, nil
	})
}

// cost is what a verb costs on average, all that follows from it included.
type cost struct {
	// ServerCPU, StoreCPU and KubeCPU are milliseconds of the sandbox server, of its etcd and of the
	// kube-apiserver, which serves Pods and Jobs and passes the watches on.
	ServerCPU float64 `json:"serverCPUMilliseconds"`
	StoreCPU  float64 `json:"etcdCPUMilliseconds"`
	KubeCPU   float64 `json:"kubeAPIServerCPUMilliseconds"`
	// StoreRequests are the server's requests to its etcd, StoreWrites the keys put or deleted,
	// StoreBytes what etcd was sent.
	StoreRequests float64 `json:"etcdRequests"`
	StoreWrites   float64 `json:"etcdWrites"`
	StoreBytes    float64 `json:"etcdBytes"`
	// HostRequests are the server's requests to the kube-apiserver.
	HostRequests float64 `json:"kubeAPIServerRequests"`
	// Events and EventBytes are what all watchers together got, of sandboxes.
	Events     float64 `json:"watchEvents"`
	EventBytes float64 `json:"watchBytes"`
	// ServerEvents is what the server has sent to all who watch its two resources, its own
	// controllers included.
	ServerEvents float64 `json:"serverWatchEvents"`
}

func costOf(from, to *reading, verbs int) cost {
	per := func(value func(*reading) float64) float64 { return (value(to) - value(from)) / float64(verbs) }
	cpu := func(of func(*reading) metrics) float64 {
		return 1000 * per(func(r *reading) float64 { return of(r).sum("process_cpu_seconds_total") })
	}
	return cost{
		ServerCPU:     cpu(func(r *reading) metrics { return r.server }),
		StoreCPU:      cpu(func(r *reading) metrics { return r.store }),
		KubeCPU:       cpu(func(r *reading) metrics { return r.kube }),
		StoreRequests: per(func(r *reading) float64 { return r.server.sum("etcd_request_duration_seconds") }),
		StoreWrites:   per((*reading).writes),
		StoreBytes:    per(func(r *reading) float64 { return r.store.sum("etcd_network_client_grpc_received_bytes_total") }),
		HostRequests:  per(func(r *reading) float64 { return r.server.sum("rest_client_requests_total", "host", r.host) }),
		Events:        per(func(r *reading) float64 { return float64(r.events) }),
		EventBytes:    per(func(r *reading) float64 { return float64(r.eventBytes) }),
		ServerEvents:  per(func(r *reading) float64 { return r.server.sum("apiserver_watch_events_total", "group", ourGroup) }),
	}
}

// stored adds up the live keys and values of the sandboxes' etcd.
func (b *bench) stored(ctx context.Context) (int64, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + b.cluster.storeAddress}, Logger: zap.NewNop()})
	if err != nil {
		return 0, err
	}
	defer func() { _ = client.Close() }()
	total, key := int64(0), "\x00"
	for {
		page, err := client.Get(ctx, key, clientv3.WithFromKey(), clientv3.WithLimit(500))
		if err != nil {
			return 0, fmt.Errorf("read what etcd holds: %w", err)
		}
		for _, kv := range page.Kvs {
			total += int64(len(kv.Key) + len(kv.Value))
		}
		if !page.More {
			return total, nil
		}
		key = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

func megabytes(bytes float64) float64 { return math.Round(bytes/(1<<20)*10) / 10 }
