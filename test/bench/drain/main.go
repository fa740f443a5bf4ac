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

// Command drain measures on a local cluster of two nodes how long the drain of a node with sandboxes takes, beside pausing
// and resuming the same number by hand. docs/performance.md says what the numbers mean.
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
	out       string
	rounds    int
	sandboxes int
	megabytes int
	bound     float64
	deadline  time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "drain:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	o := options{}
	flags := flag.NewFlagSet("drain", flag.ContinueOnError)
	flags.StringVar(&o.out, "out", ".bench/drain.json", "file for the result")
	flags.IntVar(&o.rounds, "rounds", 3, "how often each is measured; medians are reported")
	flags.IntVar(&o.sandboxes, "sandboxes", 20, "how many there are on the node")
	flags.IntVar(&o.megabytes, "megabytes", 10, "how much each of them has written, random bytes")
	flags.Float64Var(&o.bound, "bound", 2.0, "how many times as long a drain may take")
	flags.DurationVar(&o.deadline, "deadline", time.Hour, "when to give up")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if o.rounds < 1 || o.sandboxes < 1 || o.megabytes < 1 {
		return errors.New("--rounds, --sandboxes and --megabytes must be at least 1")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.deadline, fmt.Errorf("the %s of --deadline are over", o.deadline))
	defer cancel()

	c, err := connect(ctx)
	if err != nil {
		return err
	}
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.leave(context.WithoutCancel(ctx))) }()

	measured := result{Sandboxes: o.sandboxes, Megabytes: o.megabytes, Allowed: c.allowed}
	// Interleaved, so that a machine that slows down does so for both.
	for round := range o.rounds {
		for _, way := range []struct {
			name  string
			move  func(context.Context, []string) error
			times *[]float64
		}{
			{"by hand", c.byHand, &measured.ByHand},
			{"drain", c.drain, &measured.Drain},
		} {
			took, most, err := c.measure(ctx, o, way.move)
			if err != nil {
				return fmt.Errorf("%s, round %d: %w", way.name, round+1, errors.Join(err, context.Cause(ctx)))
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %s %.1f s, at most %d commits at a time\n", round+1, o.rounds, way.name, took.Seconds(), most)
			*way.times = append(*way.times, took.Seconds())
			measured.Commits = max(measured.Commits, most)
		}
	}
	return measured.report(o, os.Stdout)
}
