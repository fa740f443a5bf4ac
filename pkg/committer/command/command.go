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

// Package command is the command line of image-committer.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/cache"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/cgroup"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/layer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// Exit codes.
const (
	succeeded = 0
	failed    = 1
	misused   = 2
)

// Run runs the command line and returns the exit code. The timeout counts from
// start.
func Run(version string, start time.Time, args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:     "image-committer",
		Version: version,
		Short:   "Commit the root filesystems of a Pod's containers to OCI images",
		Long: `image-committer runs on the node of a Pod, with containerd's socket and root directory at hand.

"commit" freezes containers, streams what they changed to a registry and pushes images.
"thaw" thaws containers that a commit left frozen, "kill" ends them. "standby" keeps a container
there, beside a commit, in which the kill is run, and thaws what nobody comes for; "claim" tells it
that somebody has come, and "await" waits in it for the commit. "uncache" removes what a kill has kept
on the node for the next resume.

All log to standard error and write one line of JSON to the termination log: what was
pushed, or the reason of the failure and whether everything is thawed again.
Exit codes: 0 success, 1 failure (see the termination log), 2 wrong arguments.`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(*cobra.Command, []string) error {
			return errors.New(`no command given: it is "commit", "thaw", "standby", "claim", "await", "kill" or "uncache"`)
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)

	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(committer.MemoryLimit)
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	ran := false
	for _, add := range []func(*flags) *cobra.Command{commitCommand, thawCommand, standbyCommand, claimCommand, awaitCommand, killCommand, uncacheCommand} {
		f := &flags{start: start, stdout: stdout, stderr: stderr, log: log, ran: &ran}
		root.AddCommand(add(f))
	}
	err := root.Execute()
	switch {
	case err == nil:
		return succeeded
	case ran:
		return failed // the log has it
	}
	_, _ = fmt.Fprintf(stderr, "image-committer: %s (image-committer --help says more)\n", err)
	return misused
}

func commitCommand(f *flags) *cobra.Command {
	var o committer.CommitOptions
	var ended []string
	cmd := &cobra.Command{
		Use:   "commit",
		Short: "Freeze containers, push what they changed, and thaw them",
		Long: `Commit the root filesystems of containers of one Pod to images.

What is large is pushed while the containers run. Then the whole Pod is frozen, with what is not
committed, and what changed since, or all of what is small, is read and pushed. After a failure,
SIGTERM or the timeout, everything is thawed again. It has to share the node's PID namespace. A base layer that neither the registry nor the
node has is pulled from where the base image came from; one that is nowhere is made again from
what the node has unpacked.`,
		Example: `  image-committer commit --pod-uid=5d2c… --snapshot-uid=77ab… --leave-frozen \
    --container=name=main,id=0f3a…,image=registry.example.com/team/demo-main:snap-gen1-77ab01cd`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.SnapshotUID == "" {
				return errors.New("--snapshot-uid is needed")
			}
			if o.MaxFrozen < 0 {
				return fmt.Errorf("--max-frozen=%s has to be positive, or 0 for no limit", o.MaxFrozen)
			}
			if o.MaxHoles < 0 {
				return fmt.Errorf("--max-holes=%d has to be positive, or 0 for no limit", o.MaxHoles)
			}
			if _, err := layer.ParseCompression(string(o.Compression)); err != nil {
				return fmt.Errorf("--layer-compression: %w", err)
			}
			containers, err := f.containerImages(ended)
			if err != nil {
				return err
			}
			o.PodUID, o.Containers, o.LeaseTTL, o.Log = f.podUID, containers, f.timeout+5*time.Minute, f.log
			return f.run(func(ctx context.Context, client *runtime.Client) error {
				return committer.Commit(ctx, committer.OnContainerd(client), o, f.report)
			}, false)
		},
	}
	f.addPod(cmd, "name=NAME,id=ID,image=REGISTRY/REPOSITORY:TAG", 10*time.Minute)
	cmd.Flags().StringArrayVar(&ended, "ended", nil, "name of a container that is committed as it has ended, though another may run in its place; may be repeated, and where all are such nothing is frozen")
	addCommit(cmd.Flags(), &o)
	return cmd
}

// addCommit binds the flags to the options themselves: none can be read and then not be used.
func addCommit(fs *pflag.FlagSet, o *committer.CommitOptions) {
	fs.StringVar(&o.SnapshotUID, "snapshot-uid", "", "UID of the snapshot; it makes the images unique and names the lease")
	fs.BoolVar(&o.LeaveFrozen, "leave-frozen", false, "leave the containers frozen on success, for a Pod that is about to be removed")
	fs.BoolVar(&o.ResumeCache, "resume-cache", false, `leave on the node what "kill --resume-cache" needs to keep the images there`)
	fs.DurationVar(&o.MaxFrozen, "max-frozen", 0, "give up, and thaw, when containers would be frozen for longer; 0 is as long as it takes")
	fs.Int64Var(&o.MaxHoles, "max-holes", 0, "how many bytes of holes the sparse files of a container may have, for each unpacking of its image writes them to the disk; 0 is any number")
	fs.StringVar((*string)(&o.Compression), "layer-compression", string(layer.Zstd), "zstd, or gzip for registries and tools that do not know zstd")
	fs.StringVar(&o.SpoolDir, "spool-dir", "", "directory for what is read of containers that are to be thawed, until it is pushed; without it they stay frozen until then")
	fs.StringVar(&o.Registry.ConfigFile, "registry-config", "", "file with registry credentials (.dockerconfigjson); anonymous without it")
	fs.StringVar(&o.Registry.CAFile, "registry-ca", "", "file with CA certificates (PEM) to trust beside the system's")
	fs.BoolVar(&o.Registry.Insecure, "registry-insecure", false, "allow plain HTTP and unverified certificates for the snapshot registry")
	fs.StringVar(&o.BaseRepository, "base-repository", "", "repository of the snapshot registry, as REGISTRY/REPOSITORY, that keeps base images for other commits, so that each is uploaded once; none without it")
	fs.StringArrayVar(&o.BaseCredentials, "base-registry-config", nil, "file with credentials for the registries of base images, never used for the snapshot registry; may be repeated")
	fs.StringVar(&o.BaseHint, "base-registry-hint", "", "what to tell a person where a layer of a base image cannot be had")
}

func thawCommand(f *flags) *cobra.Command {
	var lockFile string
	cmd := &cobra.Command{
		Use:   "thaw",
		Short: "Thaw what a commit left frozen",
		Long: `Thaw all of one Pod: the containers named, its others, and its cgroup. A container that is gone,
has ended or runs is as it should be; so the command can be repeated. That it runs the kernel has to
say: a runtime that gave a freeze up takes a container for running that is not.`,
		Example: `  image-committer thaw --pod-uid=5d2c… --container=name=main,id=0f3a…`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			containers, err := f.containerRefs()
			if err != nil {
				return err
			}
			return f.run(func(ctx context.Context, client *runtime.Client) error {
				if _, err := lockShared(lockFile); err != nil {
					f.log.Error("failed", "error", err)
					return errors.Join(err, f.report(result.Result{Error: result.From(err)}))
				}
				return committer.Thaw(ctx, committer.OnContainerd(client), committer.ThawOptions{PodUID: f.podUID, Containers: containers, Log: f.log}, f.report)
			}, true)
		},
	}
	f.addPod(cmd, "name=NAME,id=ID", time.Minute)
	cmd.Flags().StringVar(&lockFile, "lock", "", `file that is locked for as long as this runs: "standby" with the same does not end meanwhile`)
	return cmd
}

func standbyCommand(f *flags) *cobra.Command {
	var o committer.StandbyOptions
	var beside beside
	cmd := &cobra.Command{
		Use:   "standby",
		Short: "Stay beside a commit until nothing that it left frozen is there any more",
		Long: `Keep a container there, beside the one that commits, in which "image-committer kill" can be run at
once (kubectl exec). It ends when nothing is frozen any more of what the commit left so; and not while a
kill with the same --lock runs, because all of a container ends with its first process. What nobody has
claimed or killed for --thaw-after it thaws: whoever was to remove the Pod is away. What is being killed
it never thaws.`,
		Example: `  image-committer standby --own-pod-uid=9e1b… --pod-uid=5d2c… --container=name=main,id=0f3a…`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			containers, err := f.containerRefs()
			if err != nil {
				return err
			}
			if err := beside.check("--thaw-after", o.ThawAfter); err != nil {
				return err
			}
			lock := &standbyLock{file: beside.lockFile}
			o.Claims = lock
			o.OwnPodUID, o.Commit = beside.ownPodUID, beside.commit
			o.PodUID, o.Containers, o.Log = f.podUID, containers, f.log
			return f.run(func(ctx context.Context, client *runtime.Client) error {
				err := committer.Standby(ctx, committer.OnContainerd(client), o, f.report)
				return errors.Join(err, lock.end())
			}, true)
		},
	}
	f.addPod(cmd, "name=NAME,id=ID", 25*time.Minute)
	cmd.Flags().BoolVar(&o.CommitThaws, "commit-thaws", false, "the commit leaves nothing frozen: there is something to thaw only where it fails")
	cmd.Flags().DurationVar(&o.ThawAfter, "thaw-after", 5*time.Minute, "how long after the end of the commit, or after the last claim, what it left frozen is thawed")
	beside.add(cmd, `file that "kill", "claim" and "await" lock while they run`)
	return cmd
}

// beside are the flags of what runs beside a commit.
type beside struct {
	ownPodUID, commit, lockFile string
}

func (b *beside) add(cmd *cobra.Command, lock string) {
	fs := cmd.Flags()
	fs.StringVar(&b.ownPodUID, "own-pod-uid", os.Getenv("POD_UID"), "UID of the Pod that this runs in, by default what the environment variable POD_UID says")
	fs.StringVar(&b.commit, "commit", "image-committer", "name of the container of that Pod that commits")
	fs.StringVar(&b.lockFile, "lock", "", lock)
}

func (b *beside) check(flag string, within time.Duration) error {
	if b.ownPodUID == "" || b.commit == "" || within <= 0 {
		return fmt.Errorf("--own-pod-uid, --commit and %s are needed", flag)
	}
	return nil
}

func claimCommand(f *flags) *cobra.Command {
	var lockFile string
	cmd := &cobra.Command{
		Use:   "claim",
		Short: "Tell a standby that somebody has come for what is frozen",
		Long: `Tell the "standby" with the same --lock that somebody is there who removes what the commit left frozen:
from now on it waits for another --thaw-after. It fails where that is about to end, which it may be because
it has thawed everything.`,
		Example: `  image-committer claim --lock=/dev/termination-log --termination-log=-`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if lockFile == "" || f.terminationLog == "" {
				return errors.New("--lock and --termination-log are needed")
			}
			*f.ran = true
			_, err := lockShared(lockFile)
			if err == nil {
				err = note(lockFile, claimLine)
			}
			if err != nil {
				f.log.Error("failed", "error", err)
				return errors.Join(err, f.report(result.Result{Error: result.From(err)}))
			}
			return f.report(result.Result{})
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&lockFile, "lock", "", `file that "standby" has as well`)
	fs.StringVar(&f.terminationLog, "termination-log", "/dev/termination-log", `file that the result is written to; "-" is standard output`)
	fs.SortFlags = false
	return cmd
}

func awaitCommand(f *flags) *cobra.Command {
	var beside beside
	var within time.Duration
	cmd := &cobra.Command{
		Use:   "await",
		Short: "Wait until the commit in the same Pod has ended",
		Long: `Wait until the commit in the same Pod has ended, or --within is over. It is the postStart hook of
the container beside a commit, which the kubelet waits for: when it has started a Pod it looks once
more at its containers at once (since Kubernetes 1.36), and later once a second. So it tells at
once of a commit that is over by then. It writes no report, and whatever comes of it is a success,
because the kubelet ends a container whose hook fails.`,
		Example: `  image-committer await --own-pod-uid=9e1b… --within=3s`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := beside.check("--within", within); err != nil {
				return err
			}
			err := f.run(func(ctx context.Context, client *runtime.Client) error {
				_, err := lockShared(beside.lockFile)
				if err == nil {
					ctx, cancel := context.WithTimeout(ctx, within)
					defer cancel()
					err = client.Exited(ctx, beside.ownPodUID, beside.commit)
				}
				if err != nil {
					f.log.Info("the commit is no longer waited for", "because", err)
				}
				return nil
			}, true)
			if *f.ran {
				return nil
			}
			return err
		},
	}
	f.add(cmd, time.Minute)
	cmd.Flags().DurationVar(&within, "within", 3*time.Second, "how long to wait at most")
	beside.add(cmd, `file that is locked for as long as this runs: "standby" with the same does not end meanwhile`)
	return cmd
}

func killCommand(f *flags) *cobra.Command {
	var keep cache.Options
	var lockFile string
	cmd := &cobra.Command{
		Use:   "kill",
		Short: "End containers that a commit left frozen, without letting them run again",
		Long: `Kill what is frozen of one Pod whose files are saved. All processes get SIGKILL while they are
frozen, so that none of them runs again. A container that is gone, has ended or runs is left alone;
so the command can be repeated. It has to share the node's PID namespace.

With --resume-cache, what they have written is kept on the node as the images that they were
committed to, unless the disk is more than 70 % full.`,
		Example: `  image-committer kill --pod-uid=5d2c… --container=name=main,id=0f3a…`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			containers, err := f.containerRefs()
			if err != nil {
				return err
			}
			if keep.MaxBytes > 0 && (keep.SandboxUID == "" || keep.SnapshotUID == "") {
				return errors.New("--resume-cache needs --sandbox-uid and --snapshot-uid")
			}
			return f.run(func(ctx context.Context, client *runtime.Client) error {
				_, err := lockShared(lockFile)
				if err == nil {
					err = note(lockFile, killLine)
				}
				if err != nil {
					f.log.Error("failed", "error", err)
					return errors.Join(err, f.report(result.Result{Error: result.From(err)}))
				}
				// Whoever reads what this says may end: half a kill is worse than one that nobody hears of.
				signal.Ignore(syscall.SIGPIPE)
				o := committer.KillOptions{PodUID: f.podUID, Containers: containers, Log: f.log}
				if keep.MaxBytes > 0 {
					keep.Log = f.log
					o.Cache = cache.New(client, keep)
				}
				return committer.Kill(ctx, committer.OnContainerd(client), o, f.report)
			}, true)
		},
	}
	f.addPod(cmd, "name=NAME,id=ID", time.Minute)
	fs := cmd.Flags()
	fs.StringVar(&lockFile, "lock", "", `file that is locked for as long as this runs: "standby" with the same does not end meanwhile, and thaws nothing from then on`)
	fs.Int64Var(&keep.MaxBytes, "resume-cache", 0, "how many bytes of images may be kept on this node; 0 keeps nothing")
	fs.StringToStringVar(&keep.Images, "keep", nil, "NAME=REPOSITORY@DIGEST: the image of a container, as the resumed Pod asks for it; may be repeated")
	fs.StringVar(&keep.SandboxUID, "sandbox-uid", "", "UID of the sandbox that images are kept for")
	fs.StringVar(&keep.SnapshotUID, "snapshot-uid", "", "UID of the snapshot whose images they are")
	fs.StringVar(&keep.Root, "containerd-root", "/var/lib/containerd", "containerd's root directory, for how full its disk is")
	return cmd
}

func uncacheCommand(f *flags) *cobra.Command {
	var snapshotUID string
	cmd := &cobra.Command{
		Use:   "uncache",
		Short: "Remove what is kept on the node for a snapshot",
		Long: `Remove the images that were kept on this node for a snapshot. One that a container lies on is
left to the kubelet, which removes images that nobody uses. Where nothing is kept, all is well.`,
		Example: `  image-committer uncache --snapshot-uid=77ab…`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if snapshotUID == "" {
				return errors.New("--snapshot-uid is needed")
			}
			return f.run(func(ctx context.Context, client *runtime.Client) error {
				if err := cache.Drop(ctx, client, snapshotUID, f.log); err != nil {
					f.log.Error("failed", "error", err)
					return errors.Join(err, f.report(result.Result{Error: result.From(err), Thawed: true}))
				}
				return f.report(result.Result{Thawed: true})
			}, false)
		},
	}
	f.add(cmd, time.Minute)
	cmd.Flags().StringVar(&snapshotUID, "snapshot-uid", "", "UID of the snapshot")
	return cmd
}

// run connects to containerd and does the work until it is done, SIGTERM comes
// or the time is up. frozen says that the work is on what is frozen already.
func (f *flags) run(work func(context.Context, *runtime.Client) error, frozen bool) error {
	if err := f.check(); err != nil {
		return err
	}
	*f.ran = true
	ctx, stop := interruptible(context.Background())
	defer stop()
	ctx, cancel := context.WithDeadlineCause(ctx, f.start.Add(f.timeout),
		result.Errorf(result.DeadlineExceeded, "the time of %s was up", f.timeout))
	defer cancel()

	client, err := runtime.Dial(ctx, strings.TrimPrefix(f.address, "unix://"), f.namespace)
	if err != nil {
		f.log.Error("failed", "error", err)
		// A commit that did not begin has touched nothing; what a thaw or a kill met frozen is so still.
		return errors.Join(err, f.report(result.Result{Error: result.From(err), Thawed: !frozen}))
	}
	defer func() { _ = client.Close() }()
	if f.ofPod {
		tree, err := cgroup.Open(f.cgroupRoot)
		if err != nil {
			err = fmt.Errorf("what is frozen cannot be known without the node's cgroups (--cgroup-root): %w", err)
			f.log.Error("failed", "error", err)
			return errors.Join(err, f.report(result.Result{Error: result.From(err), Thawed: !frozen}))
		}
		client.WithCgroups(tree)
	}
	err = work(ctx, client)
	f.log.Info("done", "took", time.Since(f.start), "peakMemoryBytes", committer.PeakMemory())
	return err
}

// interruptible returns a context that a signal ends. Further signals change
// nothing: the thawing that follows the first must not be cut short.
func interruptible(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		select {
		case s := <-signals:
			cancel(result.Errorf(result.Canceled, "a signal (%s) came", s))
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel(nil)
	}
}

// report writes the result where the kubelet finds it.
func (f *flags) report(r result.Result) error {
	report, err := r.Report()
	if err != nil {
		return err
	}
	if f.terminationLog == "-" {
		line := report.Message
		if len(report.Line) > 0 {
			line = report.Line
		}
		_, err = fmt.Fprintf(f.stdout, "%s\n", line)
		return err
	}
	if len(report.Line) > 0 {
		// Where the log goes, too: what comes through two pipes at a time may be mixed.
		if _, err := fmt.Fprintf(f.stderr, "%s\n", report.Line); err != nil {
			return fmt.Errorf("writing the result to the log: %w", err)
		}
	}
	if err := os.WriteFile(f.terminationLog, report.Message, 0o644); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}
