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

// Command verbs measures a pause and a resume on the local cluster beside what Kubernetes itself
// takes to start a bare Pod there. docs/performance.md says what the numbers mean.
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
	out      string
	cached   bool
	rounds   int
	deadline time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "verbs:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o := options{}
	flags := flag.NewFlagSet("verbs", flag.ContinueOnError)
	flags.StringVar(&o.out, "out", ".bench/verbs.json", "file for the result")
	flags.BoolVar(&o.cached, "resume-cache", false, "the server has a --resume-cache: measure only what that changes, and add it to the file")
	flags.IntVar(&o.rounds, "rounds", 5, "how often each case is measured; medians are reported")
	flags.DurationVar(&o.deadline, "deadline", 20*time.Minute, "when to give up")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if o.rounds < 1 {
		return errors.New("--rounds must be at least 1")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.deadline, fmt.Errorf("the %s of --deadline are over", o.deadline))
	defer cancel()

	node, err := connect()
	if err != nil {
		return err
	}
	leave, err := node.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()

	measured := newResult()
	// Interleaved, so that a machine that slows down does so for all of them alike.
	for round := range o.rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, o.rounds)
		node.phase = relistPeriod * time.Duration(round) / time.Duration(o.rounds)
		for _, c := range cases {
			measure := node.measure
			if o.cached {
				measure = node.measureCached
			}
			if err := measure(ctx, c, measured); err != nil {
				if cause := context.Cause(ctx); cause != nil {
					err = fmt.Errorf("%w (%w)", cause, err)
				}
				return fmt.Errorf("case %s: %w", c.name, err)
			}
		}
	}
	return measured.write(o.out, o.cached, os.Stdout)
}
