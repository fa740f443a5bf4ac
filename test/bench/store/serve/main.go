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

// The program serve is the API over its embedded etcd, with no cluster around it and the same for
// everybody: what bench-store measures. It is also built with the sources of older commits, so it uses
// little of them.
//
// It prints where it serves, then answers each line of its standard input: "measure" with what it has
// used, "profile FILE" and "end" around what a profile of the CPU is to have.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/server"
)

func main() {
	dataDir := flag.String("data-dir", "", "the directory of the store")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, *dataDir); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, dataDir string) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	options := server.NewOptions()
	options.DataDir = dataDir
	options.Recommended.SecureServing.Listener = listener
	options.Recommended.SecureServing.BindAddress = net.IPv4(127, 0, 0, 1)
	anybody := &user.DefaultInfo{Name: "anybody"}
	options.Standalone = &server.Standalone{
		Authenticator: authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
			return &authenticator.Response{User: anybody}, req.Header.Get("Authorization") == "Bearer anybody", nil
		}),
		Authorizer: authorizer.AuthorizerFunc(func(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
			return authorizer.DecisionAllow, "", nil
		}),
	}
	if err := errors.Join(options.Complete(), options.Validate()); err != nil {
		return err
	}
	s, err := server.New(ctx, options)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(map[string]string{"url": "https://" + listener.Addr().String()}); err != nil {
		return err
	}
	go answer(out)
	return s.Run(ctx)
}

// answer does what the lines of the standard input say, until it ends.
func answer(out *json.Encoder) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		command, argument, _ := strings.Cut(lines.Text(), " ")
		reply := map[string]float64{}
		var err error
		switch command {
		case "measure":
			reply["cpu"] = cpuSeconds()
			// Twice: what a finalizer gives free goes with the second.
			runtime.GC()
			runtime.GC()
			var memory runtime.MemStats
			runtime.ReadMemStats(&memory)
			reply["heap"] = float64(memory.HeapAlloc)
		case "profile":
			err = profileCPU(argument)
		case "heap":
			err = profileHeap(argument)
		case "end":
			pprof.StopCPUProfile()
		}
		if err == nil {
			err = out.Encode(reply)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "serve:", err)
			os.Exit(1)
		}
	}
}

func profileCPU(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return pprof.StartCPUProfile(file)
}

func profileHeap(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	runtime.GC()
	return pprof.Lookup("heap").WriteTo(file, 0)
}

// cpuSeconds is what this process has used.
func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return (time.Duration(usage.Utime.Nano()) + time.Duration(usage.Stime.Nano())).Seconds()
}
