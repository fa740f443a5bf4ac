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

package execd

import (
	"bufio"
	"encoding/json"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sample is what the container uses of what it may use.
type sample struct {
	CPUs     float64 `json:"cpu_count"`
	CPUUsed  float64 `json:"cpu_used_pct"` // of all that it may use: 0 to 100
	Memory   float64 `json:"mem_total_mib"`
	MemUsed  float64 `json:"mem_used_mib"` // without what the kernel can take back from its file cache
	Measured int64   `json:"timestamp"`    // ms since 1970
}

// metrics reads what the kernel tells of the container's cgroup, and of the machine where that has no limit.
type metrics struct {
	root string // "/"

	mu   sync.Mutex
	last cpuTime
	used float64 // per cent, as of last
}

// cpuTime is the processor time that was used until a moment.
type cpuTime struct {
	at   time.Time
	used time.Duration
}

func newMetrics(root string) *metrics {
	m := &metrics{root: root}
	m.last = cpuTime{time.Now(), m.processorTime()}
	return m
}

// currentMetrics is GET /metrics.
func (d *daemon) currentMetrics(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, d.metrics.read())
}

// watchMetrics is GET /metrics/watch: a line each second.
func (d *daemon) watchMetrics(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	flush := http.NewResponseController(w).Flush
	for {
		if json.NewEncoder(w).Encode(d.metrics.read()) != nil || flush() != nil {
			return nil
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-ticker.C:
		}
	}
}

// read measures the processor since the last time that somebody asked, if that was long enough ago to say something.
func (m *metrics) read() sample {
	const shortest = 200 * time.Millisecond
	m.mu.Lock()
	defer m.mu.Unlock()
	now := cpuTime{time.Now(), m.processorTime()}
	s := sample{CPUs: m.processors(), Measured: now.at.UnixMilli()}
	if wall := now.at.Sub(m.last.at); wall >= shortest && s.CPUs > 0 {
		m.used = min(max(100*float64(now.used-m.last.used)/float64(wall)/s.CPUs, 0), 100)
		m.last = now
	}
	s.CPUUsed = m.used
	s.Memory, s.MemUsed = m.memory()
	return s
}

// cgroup reads a number of the container's cgroup: a file of v2, or of v1; of a file with several a field by its name.
func (m *metrics) cgroup(v2, v1, name string) (float64, bool) {
	for _, file := range []string{v2, v1} {
		content, err := os.ReadFile(filepath.Join(m.root, "sys", "fs", "cgroup", file))
		if err != nil {
			continue
		}
		text := strings.TrimSpace(string(content))
		if name != "" {
			text = named(text, name)
		}
		if n, err := strconv.ParseFloat(text, 64); err == nil {
			return n, true
		}
	}
	return 0, false
}

// named finds the number of a line "name number".
func named(content, name string) string {
	for line := range strings.Lines(content) {
		if fields := strings.Fields(line); len(fields) >= 2 && strings.TrimSuffix(fields[0], ":") == name {
			return fields[1]
		}
	}
	return ""
}

func (m *metrics) processorTime() time.Duration {
	if microseconds, ok := m.cgroup("cpu.stat", "", "usage_usec"); ok {
		return time.Duration(microseconds) * time.Microsecond
	}
	if nanoseconds, ok := m.cgroup("", "cpuacct/cpuacct.usage", ""); ok {
		return time.Duration(nanoseconds)
	}
	return 0
}

// processors are those of the limit, or those of the machine that may be used.
func (m *metrics) processors() float64 {
	content, err := os.ReadFile(filepath.Join(m.root, "sys", "fs", "cgroup", "cpu.max"))
	if fields := strings.Fields(string(content)); err == nil && len(fields) == 2 {
		quota, errQuota := strconv.ParseFloat(fields[0], 64)
		period, errPeriod := strconv.ParseFloat(fields[1], 64)
		if errQuota == nil && errPeriod == nil && period > 0 {
			return quota / period
		}
	}
	quota, hasQuota := m.cgroup("", "cpu/cpu.cfs_quota_us", "")
	period, hasPeriod := m.cgroup("", "cpu/cpu.cfs_period_us", "")
	if hasQuota && hasPeriod && quota > 0 && period > 0 {
		return quota / period
	}
	return float64(runtime.NumCPU())
}

// memory returns MiB.
func (m *metrics) memory() (total, used float64) {
	machine, free := m.machineMemory()
	limit, limited := m.cgroup("memory.max", "memory/memory.limit_in_bytes", "")
	if !limited || limit <= 0 || limit > machine {
		limit = machine
	}
	used, known := m.cgroup("memory.current", "memory/memory.usage_in_bytes", "")
	if known {
		cache, _ := m.cgroup("memory.stat", "", "inactive_file")
		if cache == 0 {
			cache, _ = m.cgroup("", "memory/memory.stat", "total_inactive_file")
		}
		used = max(used-cache, 0)
	} else {
		used = machine - free
	}
	return math.Round(limit / (1 << 20)), min(used, limit) / (1 << 20)
}

// machineMemory returns bytes.
func (m *metrics) machineMemory() (total, free float64) {
	file, err := os.Open(filepath.Join(m.root, "proc", "meminfo"))
	if err != nil {
		return 0, 0
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(fields[1], 64)
		switch fields[0] {
		case "MemTotal:":
			total = kib * 1024
		case "MemAvailable:":
			free = kib * 1024
		}
	}
	return total, free
}
