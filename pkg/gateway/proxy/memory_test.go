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

package proxy

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"
)

// A client that pings costs what its connection does: 2,000 of them are to fit into 128 MiB with all else
// (make bench-gateway measures that of the gateway's process). Here both ends of the gateway's are in one process, and the
// sandbox's.
func TestMemoryOfManyClients(t *testing.T) {
	const clients, most = 500, 160 << 10
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.serves(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, "pong") })
	before := inUse()
	transport := &http.Transport{MaxIdleConnsPerHost: clients, MaxConnsPerHost: clients}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: time.Minute}
	for range 3 {
		var pings sync.WaitGroup
		for range clients {
			pings.Go(func() {
				response, err := client.Do(w.request("GET", "/ping", ""))
				if err != nil {
					t.Error(err)
					return
				}
				defer response.Body.Close()
				if body, err := io.ReadAll(response.Body); string(body) != "pong" || err != nil {
					t.Errorf("%s %q, %v", response.Status, body, err)
				}
			})
		}
		pings.Wait()
	}
	if each := (inUse() - before) / clients; each > most {
		t.Errorf("%d clients cost %d KiB each, %d KiB at most", clients, each>>10, most>>10)
	} else {
		t.Logf("%d clients cost %d KiB each", clients, each>>10)
	}
}

func inUse() int64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapInuse + stats.StackInuse)
}
