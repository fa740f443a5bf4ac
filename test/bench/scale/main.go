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

// Command scale measures what a pause and a resume cost among 100, 1,000 and 5,000 sandboxes, on
// nodes that are only pretended. docs/performance.md says what the numbers mean.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	// bin holds etcd and kube-apiserver, server is the sandbox server to measure.
	bin, server string
	serverArgs  []string
	// dir is for logs and data, out the result.
	dir, out string
	sizes    []int

	watchers, namespaces, nodes int
	// inFlight is how many verbs are under way in the steady part, clients how many POSTs in the rush.
	inFlight, clients int
	// steady and burst are how many verbs of a kind make up a measurement: small sizes take rounds.
	steady, burst                 int
	maxCommits, maxCommitsPerNode int
	commitTime, deadline          time.Duration
}

type reporter func(format string, args ...any)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.deadline, fmt.Errorf("the %s of --deadline are over", o.deadline))
	defer cancel()
	begin := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "[%6.1f s] %s\n", time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
	}
	result := newReport(o)
	for _, size := range o.sizes {
		measured, err := measure(ctx, o, size, say)
		if err != nil {
			return err
		}
		result.Sizes = append(result.Sizes, measured)
		// Kept, whatever becomes of the next size.
		result.judge()
		if err := result.write(o.out); err != nil {
			return err
		}
	}
	if err := result.print(os.Stdout); err != nil {
		return err
	}
	say("the numbers are in %s", o.out)
	if len(result.Broken) > 0 {
		return errors.New("not as promised:\n- " + strings.Join(result.Broken, "\n- "))
	}
	return nil
}

func parse(args []string) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("scale", flag.ContinueOnError)
	flags.StringVar(&o.bin, "bin", ".cluster/bin", "directory of etcd and kube-apiserver (make cluster-programs)")
	flags.StringVar(&o.server, "server", "bin/sandbox-apiserver", "the server to measure (make build)")
	flags.Func("server-arg", "a further flag for the server (repeatable)", func(value string) error {
		o.serverArgs = append(o.serverArgs, value)
		return nil
	})
	flags.StringVar(&o.dir, "dir", ".bench/scale", "directory for data and logs; emptied")
	flags.StringVar(&o.out, "out", ".bench/scale.json", "where the numbers go")
	sizes := flags.String("sizes", "100,1000,5000", "how many sandboxes, the smallest first: what the others are compared with")
	flags.IntVar(&o.watchers, "watchers", 500, "how many clients watch the sandboxes of a namespace")
	flags.IntVar(&o.namespaces, "namespaces", 50, "how many namespaces the sandboxes are spread over")
	flags.IntVar(&o.nodes, "nodes", 6, "how many nodes are pretended")
	flags.IntVar(&o.inFlight, "in-flight", 40, "how many verbs are under way at a time in the steady part")
	flags.IntVar(&o.clients, "clients", 16, "how many clients send their POSTs at a time when all is asked for at once")
	flags.IntVar(&o.steady, "steady", 500, "how many pauses, and resumes, the steady part measures")
	flags.IntVar(&o.burst, "burst", 300, "how many pauses, and resumes, all at once: at least this many, in rounds, and at least each sandbox once")
	flags.IntVar(&o.maxCommits, "max-commits", 8, "the server's --max-commits")
	flags.IntVar(&o.maxCommitsPerNode, "max-commits-per-node", 2, "the server's --max-commits-per-node")
	flags.DurationVar(&o.commitTime, "commit-time", time.Second, "how long a pretended commit runs")
	flags.DurationVar(&o.deadline, "deadline", 90*time.Minute, "when to give up")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	for _, value := range strings.Split(*sizes, ",") {
		size, err := strconv.Atoi(strings.TrimSpace(value))
		if err != nil || size < 1 {
			return nil, fmt.Errorf("--sizes %q: %q is not a number of sandboxes", *sizes, value)
		}
		o.sizes = append(o.sizes, size)
	}
	for name, value := range map[string]int{
		"--namespaces": o.namespaces, "--nodes": o.nodes, "--in-flight": o.inFlight, "--clients": o.clients,
		"--steady": o.steady, "--burst": o.burst, "--max-commits": o.maxCommits, "--max-commits-per-node": o.maxCommitsPerNode,
	} {
		if value < 1 {
			return nil, fmt.Errorf("%s must be at least 1, and is %d", name, value)
		}
	}
	var err error
	for _, path := range []*string{&o.bin, &o.server, &o.dir, &o.out} {
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, err
		}
	}
	for _, program := range []string{filepath.Join(o.bin, "etcd"), filepath.Join(o.bin, "kube-apiserver"), o.server} {
		if _, err := os.Stat(program); err != nil {
			return nil, fmt.Errorf("a program is missing: %w", err)
		}
	}
	return o, nil
}
