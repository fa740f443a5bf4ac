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

// Command commit measures what a commit costs beside the best separate tools and
// beside containerd's own diff: a real container of a real containerd, a real
// registry, the same files. docs/performance.md says what the numbers mean.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

type options struct {
	// bin holds containerd, its shim, ctr and registry; committer is image-committer, and baseline another build of it.
	bin, committer, baseline string
	// dir is for data and logs, out the result.
	dir, out       string
	rounds         int
	cases, methods []string
	deadline       time.Duration
}

// tools are the programs of the reference and of containerd, with the Debian package of each.
var tools = [][2]string{{"tar", "tar"}, {"zstd", "zstd"}, {"curl", "curl"}, {"sha256sum", "coreutils"}, {"tee", "coreutils"}, {"runc", "runc"}}

func main() {
	// The same program is what runs in the container: it has to be static.
	if len(os.Args) == 2 && os.Args[1] == sandboxCommand {
		sandbox()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench-commit:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.deadline, fmt.Errorf("the %s of --deadline are over", o.deadline))
	defer cancel()
	begin := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "[%6.1f s] %s\n", time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
	}
	var rows []row
	for _, c := range cases {
		if !slices.Contains(o.cases, c.name) {
			continue
		}
		measured, err := measure(ctx, o, c, say)
		if err != nil {
			return fmt.Errorf("case %s: %w", c.name, err)
		}
		rows = append(rows, summarize(c, measured)...)
		// After each case: a run that is interrupted leaves what it has.
		if err := write(o.out, rows); err != nil {
			return err
		}
	}
	if err := printTable(os.Stdout, rows); err != nil {
		return err
	}
	say("the numbers are in %s", o.out)
	if broken := judge(rows); len(broken) > 0 {
		return errors.New("not as promised:\n- " + strings.Join(broken, "\n- "))
	}
	return nil
}

func parse(args []string) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("bench-commit", flag.ContinueOnError)
	flags.StringVar(&o.bin, "bin", ".cluster/bin", "directory of containerd, ctr and registry (make cluster-up builds them)")
	flags.StringVar(&o.committer, "committer", "bin/image-committer", "the image-committer to measure (make build)")
	flags.StringVar(&o.baseline, "baseline", "", "another image-committer, measured beside it (make bench-commit BASELINE=COMMIT builds it)")
	flags.StringVar(&o.dir, "dir", ".bench/commit", "directory for data and logs; emptied")
	flags.StringVar(&o.out, "out", ".bench/commit.json", "where the numbers go")
	flags.IntVar(&o.rounds, "rounds", 5, "how often each method runs, by turns")
	names := make([]string, 0, len(cases))
	for _, c := range cases {
		names = append(names, c.name)
	}
	selected := flags.String("cases", strings.Join(names, ","), "which cases")
	methods := flags.String("methods", strings.Join([]string{ours, baseline, reference, containerdDiff}, ","), "which methods")
	flags.DurationVar(&o.deadline, "deadline", time.Hour, "when to give up")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	o.cases, o.methods = strings.Split(*selected, ","), strings.Split(*methods, ",")
	for _, c := range o.cases {
		if !slices.Contains(names, c) {
			return nil, fmt.Errorf("--cases: %q is none of %s", c, strings.Join(names, ", "))
		}
	}
	for _, m := range o.methods {
		if !slices.Contains(allMethods, m) {
			return nil, fmt.Errorf("--methods: %q is none of %s", m, strings.Join(allMethods, ", "))
		}
	}
	paths := []*string{&o.bin, &o.committer, &o.dir, &o.out}
	if o.baseline != "" {
		paths = append(paths, &o.baseline)
	}
	for _, path := range paths {
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// check says in one sentence all that is missing.
func (o *options) check() error {
	if os.Geteuid() != 0 {
		return errors.New("it mounts overlays and runs containers: run it as root")
	}
	var packages []string
	for _, tool := range tools {
		if _, err := exec.LookPath(tool[0]); err != nil && !slices.Contains(packages, tool[1]) {
			packages = append(packages, tool[1])
		}
	}
	if len(packages) > 0 {
		return fmt.Errorf("programs are missing: apt-get install %s", strings.Join(packages, " "))
	}
	for _, program := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "registry"} {
		if _, err := os.Stat(filepath.Join(o.bin, program)); err != nil {
			return fmt.Errorf("%w: make cluster-up builds it, or name another directory with --bin", err)
		}
	}
	if _, err := os.Stat(o.committer); err != nil {
		return fmt.Errorf("%w: make build makes it", err)
	}
	if o.baseline != "" {
		if _, err := os.Stat(o.baseline); err != nil {
			return fmt.Errorf("%w: make bench-commit BASELINE=COMMIT builds one", err)
		}
	}
	return nil
}
