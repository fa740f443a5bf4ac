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

// treemaker makes, changes and describes trees in a container, and writes there; see the packages trees and writers. It
// needs nothing but itself, so that an image may hold nothing else.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/opensandbox-io/sandbox-apiserver/test/trees"
	"github.com/opensandbox-io/sandbox-apiserver/test/trees/writers"
)

const usage = `treemaker make ROOT SEED COUNT [KEEP…]     fill a directory
treemaker change ROOT SEED COUNT [KEEP…]   change what is in it, but for the paths KEEP
treemaker inventory ROOT                   describe it, in lines of JSON
treemaker owned DIR                        make what has owners, for any user namespace
treemaker many DIR COUNT                   make so many tiny files
treemaker start DIR SOCKET                 write without pause, and tell the socket
treemaker written DIR                      say what was written
treemaker sleep                            wait for SIGTERM`

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "treemaker:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) >= 4 && (args[0] == "make" || args[0] == "change"):
		seed, err := strconv.ParseUint(args[2], 10, 64)
		if err != nil {
			return err
		}
		count, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		maker := trees.New(args[1], seed, args[4:]...)
		if args[0] == "make" {
			err = maker.Make(count)
		} else {
			err = maker.Change(count)
		}
		return errors.Join(err, json.NewEncoder(os.Stdout).Encode(maker.Done))
	case len(args) == 2 && args[0] == "inventory":
		entries, err := trees.Inventory(args[1])
		if err != nil {
			return err
		}
		out := json.NewEncoder(os.Stdout)
		for _, e := range entries {
			if err := out.Encode(e); err != nil {
				return err
			}
		}
		return nil
	case len(args) == 2 && args[0] == "owned":
		return trees.Owned(args[1])
	case len(args) == 3 && args[0] == "many":
		return many(args[1], args[2])
	case len(args) == 3 && args[0] == "start":
		return writers.Start(ctx, "/proc/self/exe", args[1], args[2])
	case len(args) == 4 && args[0] == "parent":
		return writers.Parent(ctx, "/proc/self/exe", args[1], args[2], args[3])
	case len(args) == 4 && args[0] == "write":
		return writers.Write(ctx, args[1], args[2], args[3])
	case len(args) == 2 && args[0] == "written":
		last, err := writers.Written(args[1])
		return errors.Join(err, json.NewEncoder(os.Stdout).Encode(last))
	case len(args) == 1 && args[0] == "sleep":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		<-stop
		return nil
	}
	return errors.New(usage)
}

func many(dir, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	for i := range n {
		if err := os.WriteFile(dir+"/tiny-file-"+strconv.Itoa(i), []byte("x"), 0o644); err != nil {
			return err
		}
	}
	return nil
}
