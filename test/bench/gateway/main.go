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

// Command gateway measures what lifecycle-gateway adds on the local cluster: to a pause, beside the same sent to kube-apiserver;
// and to requests and downloads of a sandbox, beside a direct connection to its Pod. docs/performance.md says what the numbers
// mean.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

type options struct {
	out, bin string
	// pauses are measured of each kind, and pings; downloads and their size.
	pauses, pings, downloads, megabytes int
	clients                             int
	// steady is for how long the clients ping.
	steady   time.Duration
	deadline time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o := options{}
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	flags.StringVar(&o.out, "out", ".bench/gateway.json", "file for the result")
	flags.StringVar(&o.bin, "bin", "bin", "folder of lifecycle-gateway and execd")
	flags.IntVar(&o.pauses, "pauses", 500, "how many pauses are sent each way")
	flags.IntVar(&o.pings, "pings", 3000, "how many requests are sent each way")
	flags.IntVar(&o.downloads, "downloads", 7, "how many downloads are made each way")
	flags.IntVar(&o.megabytes, "megabytes", 1024, "size of a download")
	flags.IntVar(&o.clients, "clients", 2000, "how many clients ping at the same time, once a second each")
	flags.DurationVar(&o.steady, "steady", 20*time.Second, "for how long they do")
	flags.DurationVar(&o.deadline, "deadline", 10*time.Minute, "when to give up")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if min(o.pauses, o.pings, o.downloads, o.megabytes, o.clients) < 1 {
		return errors.New("--pauses, --pings, --downloads, --megabytes and --clients must be at least 1")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.deadline, fmt.Errorf("the %s of --deadline are over", o.deadline))
	defer cancel()

	s, err := connect(o)
	if err != nil {
		return err
	}
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	measured := &result{Clients: o.clients, Megabytes: o.megabytes}
	for _, step := range []struct {
		name    string
		measure func(context.Context, options, *result) error
	}{{"pings", s.measurePings}, {"downloads", s.measureDownloads}, {"clients", s.measureClients}, {"pauses", s.measurePauses}} {
		fmt.Fprintln(os.Stderr, step.name)
		if err := step.measure(ctx, o, measured); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = fmt.Errorf("%w (%w)", cause, err)
			}
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return measured.report(o, os.Stdout)
}
