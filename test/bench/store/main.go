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

// The program bench-store measures what a user costs the server who patches one large sandbox, and
// does it with the build of another commit in the same run. See docs/performance.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// Bounds of the ratios to the other build.
const (
	maxHeap = 0.2
	maxCPU  = 0.4
)

// What is done: patches by clients that have a connection each, and do not wait for each other.
const (
	clients     = 8
	templateEnv = 900
)

func main() {
	ours := flag.String("serve", "", "the server of this checkout")
	baseline := flag.String("baseline", "", "the server of another commit; without one nothing is compared")
	rounds := flag.Int("rounds", 3, "how often each is measured, by turns")
	forHeap := flag.Int("heap-patches", 600, "after how many patches the heap is measured")
	forCPU := flag.Int("cpu-patches", 920, "how many patches the CPU is measured of")
	dir := flag.String("dir", "", "where the stores are while they are used; a file system with 2 GiB to spare")
	profiles := flag.String("profiles", "", "directory for profiles of the CPU and the heap")
	out := flag.String("out", ".bench/store.json", "where the numbers go")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{dir: *dir, profiles: *profiles, forHeap: *forHeap, forCPU: max(*forHeap, *forCPU), builds: map[string]string{"ours": *ours}, order: []string{"ours"}}
	if *baseline != "" {
		b.builds["baseline"], b.order = *baseline, []string{"baseline", "ours"}
	}
	if err := b.run(ctx, *rounds, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench-store:", err)
		os.Exit(1)
	}
}

type bench struct {
	dir, profiles   string
	forHeap, forCPU int
	builds          map[string]string
	order           []string
}

func (b *bench) run(ctx context.Context, rounds int, out string) error {
	result := newResult(b.forHeap, b.forCPU)
	for round := range rounds {
		for _, build := range b.order {
			fmt.Fprintf(os.Stderr, "bench-store: round %d of %d, %s\n", round+1, rounds, build)
			if err := b.measure(ctx, build, result); err != nil {
				return fmt.Errorf("%s: %w", build, err)
			}
		}
	}
	return errors.Join(result.print(os.Stdout), result.save(out), result.check())
}

// measure has one server patched, from its start to its end.
func (b *bench) measure(ctx context.Context, build string, result *result) (err error) {
	dir, err := os.MkdirTemp(b.dir, "bench-store")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	served, err := start(ctx, b.builds[build], dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, served.Stop()) }()
	if err := served.create(ctx, largeSandbox()); err != nil {
		return err
	}
	before, err := served.measure()
	if err != nil {
		return err
	}
	if err := b.profile(served, "profile", build+"-cpu.pprof"); err != nil {
		return err
	}
	if err := served.patch(ctx, clients, b.forHeap); err != nil {
		return err
	}
	after, err := served.measure()
	if err != nil {
		return err
	}
	if err := b.profile(served, "heap", build+"-heap.pprof"); err != nil {
		return err
	}
	between, err := served.measure()
	if err != nil {
		return err
	}
	if err := served.patch(ctx, clients, b.forCPU-b.forHeap); err != nil {
		return err
	}
	end, err := served.measure()
	if err != nil {
		return err
	}
	if b.profiles != "" {
		if _, err := served.Ask("end"); err != nil {
			return err
		}
	}
	result.add(build, sample{
		HeapMiB:    after["heap"] / (1 << 20),
		HeapBefore: before["heap"] / (1 << 20),
		CPUSeconds: after["cpu"] - before["cpu"] + end["cpu"] - between["cpu"],
	})
	return nil
}

func (b *bench) profile(served *served, what, name string) error {
	if b.profiles == "" {
		return nil
	}
	_, err := served.Ask(what + " " + filepath.Join(b.profiles, name))
	return err
}

// largeSandbox has a template near the bound of 64 KiB, in many small fields.
func largeSandbox() io.Reader {
	var env []string
	for i := range templateEnv {
		env = append(env, fmt.Sprintf(`{"name":"VARIABLE_%04d","value":%q}`, i, strings.Repeat("x", 30)))
	}
	return strings.NewReader(`{"apiVersion":"lifecycle.opensandbox.io/v1alpha1","kind":"Sandbox","metadata":{"name":"large"},` +
		`"spec":{"template":{"spec":{"containers":[{"name":"main","image":"registry.example.com/image","env":[` + strings.Join(env, ",") + `]}]}}}}`)
}
