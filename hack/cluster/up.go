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

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// up brings a cluster to where its node takes Pods. One that runs stays as it is, and components of it that have ended
// are started again. What else there is, after a reboot or an interrupted start, is cleared away: a fresh start follows.
func up(ctx context.Context, l layout, last node, say reporter) error {
	if wasUp(l) {
		if err := revive(ctx, l, say); err != nil {
			return fmt.Errorf("the cluster in %s was up, but is not whole any more; `down` and `up` make a new one: %w", l.dir, err)
		}
		if err := joinUpTo(ctx, l, last, say); err != nil {
			return err
		}
		return announce(ctx, l, say)
	}
	if err := clearAway(ctx, l, say); err != nil {
		return err
	}
	m, err := preflight(ctx, l)
	if err != nil {
		return err
	}
	if len(m.missing) > 0 {
		if err := installPackages(ctx, l, m.missing, say); err != nil {
			return err
		}
	}
	if err := build(ctx, l, say); err != nil {
		return err
	}
	if err := buildKubernetes(ctx, l, say); err != nil {
		return err
	}
	if err := writeFile(l.chosenFile(), []byte(l.kubernetes), 0o644); err != nil {
		return err
	}
	archives, err := buildImages(ctx, l)
	if err != nil {
		return err
	}
	if err := prepare(ctx, l); err != nil {
		return err
	}
	for _, stage := range stages(l) {
		if err := startStage(ctx, l, stage, say); err != nil {
			return err
		}
		if stage[0].name == "etcd" {
			if err := importInto(ctx, l, firstNode, archives); err != nil {
				return err
			}
			say("containerd has the images %s and %s", pauseImage, busyboxImage)
		}
	}
	if err := waitNode(ctx, l, firstNode); err != nil {
		return err
	}
	say("the node %s is Ready", nodeName)
	if err := writeFile(upFile(l), []byte(bootID()), 0o644); err != nil {
		return err
	}
	if err := joinUpTo(ctx, l, last, say); err != nil {
		return err
	}
	return announce(ctx, l, say)
}

// joinUpTo adds the nodes that the cluster does not have yet.
func joinUpTo(ctx context.Context, l layout, last node, say reporter) error {
	have := furtherNodes(l)
	for n := firstNode + 1; n <= last; n++ {
		if slices.Contains(have, n) && wired(l, n) {
			continue // revive has looked after it
		}
		if _, err := join(ctx, l, n, say); err != nil {
			return fmt.Errorf("add the node %s: %w", n.name(), err)
		}
	}
	return nil
}

// preflight fails with all that would keep a cluster from starting.
func preflight(ctx context.Context, l layout) (machine, error) {
	m, err := inspect(ctx, l)
	if err != nil {
		return m, err
	}
	if found := problems(m); len(found) > 0 {
		return m, errors.New("the cluster cannot start here:\n- " + strings.Join(found, "\n- "))
	}
	return m, nil
}

// upFile holds the boot in which the cluster has come up wholly.
func upFile(l layout) string { return l.path("run", "up") }

func wasUp(l layout) bool {
	boot, err := os.ReadFile(upFile(l))
	return err == nil && string(boot) == bootID()
}

// revive starts the components that have ended since; their state is all there.
func revive(ctx context.Context, l layout, say reporter) error {
	whole := true
	for _, stage := range stages(l) {
		started, err := startEnded(ctx, l, stage, say)
		if err != nil {
			return err
		}
		whole = whole && !started
	}
	if err := waitNode(ctx, l, firstNode); err != nil {
		return err
	}
	for _, n := range furtherNodes(l) {
		changed, err := join(ctx, l, n, say)
		if err != nil {
			return fmt.Errorf("the node %s: %w", n.name(), err)
		}
		whole = whole && !changed
	}
	if whole {
		say("the cluster is already running")
	} else {
		say("the cluster is whole again")
	}
	return nil
}

// startEnded starts those components of a stage that do not run, and says whether there were any.
func startEnded(ctx context.Context, l layout, stage []component, say reporter) (bool, error) {
	running, err := recorded(l)
	if err != nil {
		return false, err
	}
	var ended []component
	for _, c := range stage {
		if !running[c.name].alive() {
			ended = append(ended, c)
		}
	}
	return len(ended) > 0, startStage(ctx, l, ended, say)
}

// patience is for what takes seconds on an idle machine: a busy one may take much longer.
const patience = 5 * time.Minute

// waitNode waits until a node takes Pods, and until the API server answers where Pods look for it.
func waitNode(ctx context.Context, l layout, n node) error {
	kube, err := newKubeAPI(l)
	if err != nil {
		return err
	}
	type wait struct {
		what, component string
		check           func(context.Context) error
	}
	waits := []wait{{"the node is not Ready", n.component("kubelet"), func(ctx context.Context) error { return kube.nodeReady(ctx, n.name()) }}}
	if n == firstNode { // from where this program is
		waits = append(waits, wait{"the API server does not answer at its Service's address", "kube-proxy", answers(l, "https://"+serviceIP+"/readyz")})
	}
	for _, wait := range waits {
		err := poll(ctx, patience, 200*time.Millisecond, func() error { return wait.check(ctx) })
		if errors.Is(err, errInterrupted) {
			return err
		}
		if err != nil {
			log := l.log(wait.component)
			return fmt.Errorf("%s after %s: %w\nthe end of %s:\n%s", wait.what, patience, err, log, lastLines(log, 15))
		}
	}
	return nil
}

// announce makes sure of the storage, the one thing that a running cluster uses up, and says how to use the cluster.
func announce(ctx context.Context, l layout, say reporter) error {
	kube, err := newKubeAPI(l)
	if err != nil {
		return err
	}
	if err := kube.ensureStorage(ctx, l); err != nil {
		return err
	}
	say("%d volumes of the StorageClass %s, registries at %s and %s", volumeCount, volumeStorageClass, registryOpen, registryAuth)
	fmt.Printf("\nexport KUBECONFIG=%s\n%s get nodes\n", l.kubeconfig(), l.exe("kubectl"))
	return nil
}

// clearAway takes away what is left of a former cluster in the directory, its logs too.
func clearAway(ctx context.Context, l layout, say reporter) error {
	if running, err := recorded(l); err == nil && len(running) > 0 {
		say("clearing away what a former start left")
	}
	if err := down(ctx, l); err != nil {
		return fmt.Errorf("clear away what a former cluster left in %s: %w", l.dir, err)
	}
	return os.RemoveAll(l.path("logs"))
}

// prepare makes all that the components find when they start.
func prepare(ctx context.Context, l layout) error {
	runc, err := exec.LookPath("runc")
	if err != nil {
		return err
	}
	for _, directory := range []string{"logs", "logs/pods", "run", "containerd", "kubelet", "cni", "volumes"} {
		if err := os.MkdirAll(l.path(directory), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(l.path("containerd"), 0o711); err != nil {
		return err
	}
	if err := writePKI(l); err != nil {
		return err
	}
	if err := writeConfig(l, nodeResolvConf(), runc); err != nil {
		return err
	}
	if err := recordHost(ctx, l); err != nil {
		return err
	}
	return makeBridge(ctx, l)
}

func startStage(ctx context.Context, l layout, stage []component, say reporter) error {
	env := componentEnv()
	started := make([]process, len(stage))
	for i, c := range stage {
		if err := ctx.Err(); err != nil {
			return err
		}
		exe, args, err := c.command(l)
		if err != nil {
			return fmt.Errorf("start %s: %w", c.name, err)
		}
		p, err := start(ctx, l, c.name, exe, args, env, c.apart)
		if err != nil {
			return err
		}
		started[i] = p
	}
	for i, c := range stage {
		if err := waitReady(ctx, l, c, started[i], patience); err != nil {
			return err
		}
		say("%s is ready", c.name)
	}
	return nil
}

func ownArchives(l layout) []string {
	return []string{l.path("images", "pause.tar"), l.path("images", "busybox.tar")}
}

// buildImages makes the archives of the cluster's own images.
func buildImages(ctx context.Context, l layout) ([]string, error) {
	pause, err := os.ReadFile(l.exe("pause"))
	if err != nil {
		return nil, err
	}
	path := findBusybox(l)
	busybox, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the static busybox: %w", err)
	}
	applets, err := exec.CommandContext(ctx, path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list the tools in %s: %w", path, err)
	}
	archives := ownArchives(l)
	if err := newPauseImage(pause).writeArchive(archives[0]); err != nil {
		return nil, err
	}
	return archives, newBusyboxImage(busybox, strings.Fields(string(applets))).writeArchive(archives[1])
}

// load imports OCI or Docker archives into the containerd of every node, where the kubelet finds them, and keeps them for
// the nodes that are to come.
func load(ctx context.Context, l layout, archives []string) error {
	for _, n := range append([]node{firstNode}, furtherNodes(l)...) {
		if err := importInto(ctx, l, n, archives); err != nil {
			return err
		}
	}
	for _, archive := range archives {
		content, err := os.ReadFile(archive)
		if err != nil {
			return err
		}
		if err := writeFile(l.path("loaded", filepath.Base(archive)), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// loadedArchives are the images that the first node has.
func loadedArchives(l layout) ([]string, error) {
	archives, err := filepath.Glob(l.path("loaded", "*"))
	return append(ownArchives(l), archives...), err
}

func importInto(ctx context.Context, l layout, n node, archives []string) error {
	for _, archive := range archives {
		if err := ctr(ctx, l, n, "images", "import", archive); err != nil {
			return fmt.Errorf("import %s into the containerd of %s: %w", archive, n.name(), err)
		}
	}
	return nil
}
