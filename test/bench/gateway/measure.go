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
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
)

// timed is how long something took.
func timed(do func() error) (time.Duration, error) {
	began := time.Now()
	err := do()
	return time.Since(began), err
}

// interleaved measures the same thing both ways, in turns, so that a machine that slows down does so for both alike. What is
// done first, to make connections, is not counted.
func interleaved(ctx context.Context, count int, gateway, direct func(i int) error) (byGateway, directly []time.Duration, err error) {
	const warm = 1
	for i := range count + warm {
		first, second := gateway, direct
		if i%2 == 1 {
			first, second = direct, gateway
		}
		one, err := timed(func() error { return first(i) })
		if err != nil {
			return nil, nil, err
		}
		two, err := timed(func() error { return second(i) })
		if err != nil {
			return nil, nil, err
		}
		if i%2 == 1 {
			one, two = two, one
		}
		if i >= warm {
			byGateway, directly = append(byGateway, one), append(directly, two)
		}
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
	}
	return byGateway, directly, nil
}

// measurePauses sends the pause of a paused sandbox, which does all that a verb does but start a commit.
func (s *scene) measurePauses(ctx context.Context, o options, r *result) error {
	direct, err := rest.HTTPClientFor(s.config)
	if err != nil {
		return err
	}
	gateway := newClient()
	post := func(client *http.Client, url string, status int) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
		if err != nil {
			return err
		}
		if client == gateway {
			request.Header.Set("OPEN-SANDBOX-API-KEY", s.key)
		}
		return answered(client, request, status, io.Discard)
	}
	byGateway, directly, err := interleaved(ctx, o.pauses, func(i int) error {
		return post(gateway, fmt.Sprintf("%s/v1/sandboxes/%s/pause", s.url, paused(2*i%pausing)), http.StatusAccepted)
	}, func(i int) error {
		return post(direct, fmt.Sprintf("%s/apis/lifecycle.opensandbox.io/v1alpha1/namespaces/%s/sandboxes/%s/pause", s.config.Host, namespace, paused((2*i+1)%pausing)), http.StatusCreated)
	})
	if err != nil {
		return err
	}
	r.PauseP50 = both{quantile(byGateway, 0.5), quantile(directly, 0.5)}
	r.PauseP99 = both{quantile(byGateway, quantileOfTail), quantile(directly, quantileOfTail)}
	return nil
}

// measurePings sends a request that costs the sandbox next to nothing, on a connection that is there.
func (s *scene) measurePings(ctx context.Context, o options, r *result) error {
	gateway, direct := newClient(), newClient()
	byGateway, directly, err := interleaved(ctx, o.pings,
		func(int) error { return s.ping(ctx, gateway, s.through("/ping")) },
		func(int) error { return s.ping(ctx, direct, s.pod+"/ping") })
	if err != nil {
		return err
	}
	r.PingP50 = both{quantile(byGateway, 0.5), quantile(directly, 0.5)}
	r.PingP99 = both{quantile(byGateway, quantileOfTail), quantile(directly, quantileOfTail)}
	return nil
}

func (s *scene) measureDownloads(ctx context.Context, o options, r *result) error {
	const path = "/files/download?path=/large"
	gateway, direct := newClient(), newClient()
	get := func(client *http.Client, url string) error {
		to := &counted{}
		if err := s.get(ctx, client, url, to); err != nil {
			return err
		}
		if to.n != int64(o.megabytes)<<20 {
			return fmt.Errorf("%s: %d bytes instead of %d MiB", url, to.n, o.megabytes)
		}
		return nil
	}
	byGateway, directly, err := interleaved(ctx, o.downloads,
		func(int) error { return get(gateway, s.through(path)) },
		func(int) error { return get(direct, s.pod+path) })
	if err != nil {
		return err
	}
	r.Download = both{rate(byGateway, o.megabytes), rate(directly, o.megabytes)}
	return nil
}

// rate is the median one, in MB/s.
func rate(times []time.Duration, megabytes int) float64 {
	rates := make([]float64, 0, len(times))
	for _, took := range times {
		rates = append(rates, float64(megabytes<<20)/1e6/took.Seconds())
	}
	return median(rates)
}

// counted throws away what it is given, in pieces that are no smaller than a program would take that is in a hurry.
type counted struct{ n int64 }

func (c *counted) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

// ReadFrom implements io.ReaderFrom.
func (c *counted) ReadFrom(from io.Reader) (int64, error) {
	before, buffer := c.n, make([]byte, 256<<10)
	for {
		n, err := from.Read(buffer)
		c.n += int64(n)
		if err == io.EOF {
			return c.n - before, nil
		}
		if err != nil {
			return c.n - before, err
		}
	}
}

// measureClients has many clients ping, each on a connection of its own.
func (s *scene) measureClients(ctx context.Context, o options, r *result) error {
	ctx, stop := context.WithTimeout(ctx, o.steady)
	defer stop()
	var (
		pinging sync.WaitGroup
		pings   atomic.Int64
		failed  = make(chan error, o.clients)
	)
	began := time.Now()
	for i := range o.clients {
		pinging.Go(func() {
			client := newClient()
			defer client.CloseIdleConnections()
			// They begin one after the other, as clients do.
			pause := time.NewTimer(time.Second * time.Duration(i) / time.Duration(o.clients))
			defer pause.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-pause.C:
				}
				if err := s.ping(ctx, client, s.through("/ping")); err != nil {
					if ctx.Err() == nil {
						failed <- err
					}
					return
				}
				pings.Add(1)
				pause.Reset(time.Second)
			}
		})
	}
	pinging.Wait()
	close(failed)
	for err := range failed {
		return fmt.Errorf("one of %d: %w", len(failed)+1, err)
	}
	r.PingsPerSecond = float64(pings.Load()) / time.Since(began).Seconds()
	most, err := residentMost(s.gateway.Process.Pid)
	r.MemoryMiB = most
	return err
}

// residentMost is the most that a process was resident with, in MiB.
func residentMost(pid int) (float64, error) {
	file := fmt.Sprintf("/proc/%d/status", pid)
	content, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("%s has no VmHWM", file)
}

// newClient has connections of its own, and waits for no proxy.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1, DisableCompression: true}}
}
