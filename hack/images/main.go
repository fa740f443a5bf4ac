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

// Command images builds the container images of this project without Docker: it compiles static programs, puts each
// alone into an image, and writes OCI archives (build), pushes to a registry (push), or looks up what was pushed
// (resolve). It prints one reference with its digest a line. Equal sources give equal digests.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// programs are the programs that become images of the same name.
var programs = []program{
	{name: "sandbox-apiserver", title: "Sandbox API server", user: "65532:65532"},
	// Reading upperdirs and speaking to containerd's socket takes root.
	{name: "image-committer", title: "Commits a container's root filesystem to an image", user: "0:0"},
	// Copies itself to an emptyDir, which any user may write to.
	{name: "execd", title: "Runs commands and moves files in a sandbox, for OpenSandbox's SDKs", user: "65532:65532"},
	{name: "lifecycle-gateway", title: "OpenSandbox's Lifecycle API over HTTP", user: "65532:65532"},
}

type program struct {
	name  string // of the folder below cmd, the binary and the image
	title string
	user  string // UID:GID
}

type options struct {
	registry  string
	tag       string
	version   string
	revision  string
	platforms []v1.Platform
	output    string
	insecure  bool
	compile   compiler
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	const usage = "usage: go run ./hack/images build|push|resolve [flags]; -h after the word lists them"
	if len(args) == 0 {
		return fmt.Errorf("%s", usage)
	}
	commands := map[string]func(context.Context, options, program) (reference, error){
		"build": build, "push": push, "resolve": resolve,
	}
	do, known := commands[args[0]]
	if !known {
		return fmt.Errorf("%q is not a command; %s", args[0], usage)
	}
	o, err := parse(args[0], args[1:])
	if err != nil {
		return err
	}
	for _, p := range programs {
		ref, err := do(ctx, o, p)
		if err != nil {
			return fmt.Errorf("%s %s: %w", args[0], p.name, err)
		}
		fmt.Println(ref)
	}
	return nil
}

func parse(command string, args []string) (options, error) {
	o := options{compile: compile}
	var platforms string
	flags := flag.NewFlagSet(command, flag.ExitOnError)
	flags.StringVar(&o.registry, "registry", "registry.local", "registry and path that image names begin with")
	flags.StringVar(&o.tag, "tag", "local", "tag of the images")
	flags.BoolVar(&o.insecure, "insecure", false, "speak plain HTTP to the registry")
	if command != "resolve" {
		flags.StringVar(&platforms, "platforms", "linux/amd64", "comma-separated platforms")
		flags.StringVar(&o.version, "version", "", "version that the programs report")
		flags.StringVar(&o.revision, "revision", "", "commit that the images are labelled with")
	}
	if command == "build" {
		flags.StringVar(&o.output, "output", filepath.Join("bin", "images"), "folder for the archives")
	}
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	for _, text := range strings.FieldsFunc(platforms, func(r rune) bool { return r == ',' }) {
		platform, err := v1.ParsePlatform(text)
		if err != nil || platform.OS != "linux" || platform.Architecture == "" {
			return o, fmt.Errorf("-platforms: %q is not like linux/amd64", text)
		}
		o.platforms = append(o.platforms, *platform)
	}
	if command != "resolve" && len(o.platforms) == 0 {
		return o, fmt.Errorf("-platforms names no platform")
	}
	return o, nil
}

// reference is an image as one can name it for good: by tag for people, by digest for machines.
type reference struct {
	name.Tag
	digest v1.Hash
}

func (r reference) String() string { return r.Name() + "@" + r.digest.String() }

func (o options) reference(p program) (name.Tag, error) {
	scheme := []name.Option{name.StrictValidation}
	if o.insecure {
		scheme = append(scheme, name.Insecure)
	}
	return name.NewTag(o.registry+"/"+p.name+":"+o.tag, scheme...)
}
