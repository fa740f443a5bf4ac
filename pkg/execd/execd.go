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

// Package execd is the daemon in a sandbox that OpenSandbox's SDKs speak to: it runs commands, streams what they print,
// and reads and writes files. It needs nothing of the image that it runs in, but a shell for commands. As process 1 of the
// container it starts the entrypoint, hands signals on to it, reaps what others leave behind, and ends as the entrypoint
// does. The protocol is that of https://github.com/opensandbox-group/OpenSandbox/blob/main/specs/execd-api.yaml.
package execd

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// DefaultPort is where the SDKs look for the daemon.
const DefaultPort = 44772

// TokenVariable names the environment variable with the token that requests must carry in TokenHeader; without it every
// request is answered. Commands and the entrypoint do not see it.
const TokenVariable = "EXECD_ACCESS_TOKEN"

const portVariable = "EXECD_PORT"

const help = `execd runs commands and moves files in a sandbox.

usage:
  execd install DIRECTORY        copy this program to DIRECTORY/execd
  execd run [--port N] -- ENTRYPOINT [ARGUMENT...]
                                 serve, start the entrypoint, and end with its exit code
  execd serve [--port N]         serve alone; the same as no word at all
  execd version

The port is 44772, or what EXECD_PORT says. With EXECD_ACCESS_TOKEN requests must carry it as X-EXECD-ACCESS-TOKEN.
`

// Main runs the program and returns its exit code.
func Main(version string, args []string, stdout, stderr io.Writer) int {
	word := "serve"
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		word, args = args[0], args[1:]
	}
	if word == "version" {
		fmt.Fprintln(stdout, version)
		return 0
	}
	flags := flag.NewFlagSet("execd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, help) }
	port := flags.Int("port", portFromEnvironment(), "")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	args = flags.Args()
	switch {
	case *port < 1 || *port > 65535:
		fmt.Fprintf(stderr, "execd: the port (--port or %s) must be from 1 to 65535\n", portVariable)
		return 2
	case word == "install" && len(args) == 1:
		if err := install(args[0]); err != nil {
			fmt.Fprintln(stderr, "execd:", err)
			return 1
		}
		return 0
	case word == "run" && len(args) > 0:
		return run(version, *port, args, stderr)
	case word == "serve" && len(args) == 0:
		return serve(version, *port, stderr)
	}
	fmt.Fprint(stderr, help)
	return 2
}

// portFromEnvironment returns 0, which is refused, for what is not a number.
func portFromEnvironment() int {
	text := os.Getenv(portVariable)
	if text == "" {
		return DefaultPort
	}
	port, _ := strconv.Atoi(text)
	return port
}

// serve answers until it is told to end.
func serve(version string, port int, stderr io.Writer) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT)
	d := newDaemon(version, newProcesses(true))
	stop, err := d.listen(port)
	if err != nil {
		fmt.Fprintln(stderr, "execd:", err)
		return 1
	}
	defer stop()
	<-signals
	d.commands.signalAll(syscall.SIGTERM)
	return 0
}

// listen serves at the port on all addresses, until stop is called.
func (d *daemon) listen(port int) (stop func(), err error) {
	var config net.ListenConfig
	listener, err := config.Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, fmt.Errorf("listen at port %d for the SDKs: %w; %s says another port", port, err, portVariable)
	}
	// Neither reading nor writing has a time limit: commands run, and files are moved, for as long as it takes.
	server := &http.Server{Handler: d, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	return func() { _ = server.Close() }, nil
}
