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

// Program cluster runs a real Kubernetes of one node, or a few, on a Linux machine: etcd, the Kubernetes components, containerd and two
// registries, built from pinned Go modules, with what is not a Go module taken from Debian. No Docker, no download of
// binaries. Everything it makes lies in one directory, and `down` takes all of it back.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

const usage = `usage: cluster COMMAND [flags]

  up         build what is missing, start the cluster, wait until its nodes are Ready; adds nodes to one that runs
  down       end exactly what was started, unmount, delete the state (bin, images and logs stay)
  build      only build what is missing of the programs
  preflight  only say what would keep the cluster from starting
  status     show what runs; exit status 1 unless all of it does
  load       import image archives into the nodes' containerd: cluster load --image-archive FILE…

flags:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == "keep" { // of our own making: see keeping
		if err := keep(ctx, os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "cluster:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// reporter tells the person who waits what is going on.
type reporter func(format string, args ...any)

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("cluster", flag.ContinueOnError)
	dir := flags.String("dir", ".cluster", "directory of everything that the cluster is")
	source := flags.String("source", "hack/cluster", "directory of this program's Go module, which pins all versions")
	bin := flags.String("bin", "", "directory of the built programs (default DIR/bin)")
	kubernetes := flags.String("kubernetes", os.Getenv("KUBERNETES"), "up, build: another Kubernetes than that of go.mod, as 1.35 (default: the variable KUBERNETES)")
	nodes := flags.String("nodes", os.Getenv("NODES"), "up: how many nodes, at most 8 (default: the variable NODES, else those that there are, else 1)")
	held := flags.Int("node", 0, "hold: the number of the node; `up` calls it")
	var archives []string
	flags.Func("image-archive", "load: an OCI or Docker archive (repeatable)", func(path string) error {
		archives = append(archives, path)
		return nil
	})
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	if len(args) == 0 {
		flags.Usage()
		return errors.New("no command given")
	}
	command := args[0]
	if err := flags.Parse(args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	l, err := newLayout(*dir, *source, *bin)
	if err != nil {
		return err
	}
	if l, err = chooseKubernetes(l, *kubernetes); err != nil {
		return err
	}
	begin := time.Now()
	say := func(format string, args ...any) {
		fmt.Printf("[%6.1f s] %s\n", time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
	}
	if command == "up" || command == "down" || command == "preflight" {
		if reason := refusal(runtime.GOOS, os.Geteuid() == 0); reason != "" {
			return errors.New(reason)
		}
	}
	switch command {
	case "up":
		if err := claim(l); err != nil {
			return err
		}
		unlock, err := lock(l)
		if err != nil {
			return err
		}
		defer unlock()
		last, err := chooseNodes(l, *nodes)
		if err != nil {
			return err
		}
		return up(ctx, l, last, say)
	case "hold":
		if *held <= int(firstNode) || *held > maxNodes {
			return fmt.Errorf("there is no node %d to hold", *held)
		}
		return hold(ctx, l, node(*held))
	case "build":
		if err := claim(l); err != nil {
			return err
		}
		unlock, err := lock(l)
		if err != nil {
			return err
		}
		defer unlock()
		if err := build(ctx, l, say); err != nil {
			return err
		}
		return buildKubernetes(ctx, l, say)
	case "down":
		if _, err := os.Stat(l.path(marker)); errors.Is(err, os.ErrNotExist) {
			say("there is no cluster in %s", l.dir)
			return nil
		}
		unlock, err := lock(l)
		if err != nil {
			return err
		}
		defer unlock()
		if err := down(ctx, l); err != nil {
			return err
		}
		say("nothing of the cluster runs any more; %s keeps the programs and logs", l.dir)
		return nil
	case "preflight":
		if err := claim(l); err != nil {
			return err
		}
		if left, err := recorded(l); err != nil || len(left) > 0 {
			return err // `up` looks after a cluster of its own, or clears it away
		}
		m, err := preflight(ctx, l)
		if err == nil && len(m.missing) > 0 {
			say("`up` will install the Debian packages %s", strings.Join(m.missing, ", "))
		}
		return err
	case "status":
		return status(ctx, l)
	case "load":
		archives = append(archives, flags.Args()...)
		if len(archives) == 0 {
			return errors.New("load: name at least one file with --image-archive")
		}
		if err := load(ctx, l, archives); err != nil {
			return err
		}
		say("imported %d archives", len(archives))
		return nil
	case "help", "-h", "--help":
		flags.Usage()
		return nil
	default:
		flags.Usage()
		return fmt.Errorf("there is no command %q", command)
	}
}

// marker says that a directory is a cluster's own, so that all in it may be deleted.
const marker = ".sandbox-local-cluster"

// claim marks a new directory. One that holds anything else is refused: `--dir .` must not cost a person's files.
func claim(l layout) error {
	entries, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var strange []string
	for _, entry := range entries {
		switch entry.Name() {
		case marker:
			return nil
		case "bin", "lock": // this program may have been built into it
		default:
			strange = append(strange, entry.Name())
		}
	}
	if len(strange) > 0 {
		return fmt.Errorf("%s is not a cluster's directory, it holds %s: choose an empty one with --dir", l.dir, strange[0])
	}
	return writeFile(l.path(marker), nil, 0o644)
}

// lock keeps two runs from working on one cluster at a time. The kernel gives the lock back however the program ends.
func lock(l layout) (unlock func(), err error) {
	file, err := os.OpenFile(l.path("lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("another `cluster up` or `down` is at work on %s: wait for it", l.dir)
	}
	return func() { file.Close() }, nil
}

func status(ctx context.Context, l layout) error {
	running, err := recorded(l)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "COMPONENT\tPID\tSTATE")
	whole := true
	all := stages(l)
	for _, n := range furtherNodes(l) {
		all = append(all, nodeStages(l, n)...)
	}
	for _, stage := range all {
		for _, c := range stage {
			pid, state := "-", "not running"
			if p := running[c.name]; p.alive() {
				pid, state = fmt.Sprint(p.PID), "ready"
				if err := c.ready(ctx); err != nil {
					state = "not ready: " + strings.SplitN(err.Error(), "\n", 2)[0]
				}
			}
			whole = whole && state == "ready"
			fmt.Fprintf(table, "%s\t%s\t%s\n", c.name, pid, state)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if !whole {
		return fmt.Errorf("the cluster in %s is not running, or not wholly", l.dir)
	}
	fmt.Printf("\nexport KUBECONFIG=%s\n", l.kubeconfig())
	return nil
}
