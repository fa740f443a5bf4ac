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

package server

import (
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/util/feature"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"
)

func init() {
	// The logging flags come with feature gates of their own.
	utilruntime.Must(logsapi.AddFeatureGates(feature.DefaultMutableFeatureGate))
}

// NewCommand makes the command. What goes wrong is returned as one sentence; the caller prints it.
func NewCommand(version string) *cobra.Command {
	options := NewOptions()
	command := &cobra.Command{
		Use:   "sandbox-apiserver",
		Short: "Serves sandboxes: Pods that can be paused and resumed with their files.",
		Long: "Serves the API group lifecycle.opensandbox.io behind a kube-apiserver, and runs the controllers\n" +
			"that pause sandboxes into images and bring them back.",
		Version:       version,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := options.Run.ComponentGlobalsRegistry.Set(); err != nil {
				return err
			}
			if err := options.Complete(); err != nil {
				return err
			}
			if err := options.Validate(); err != nil {
				return err
			}
			if err := logsapi.ValidateAndApply(options.Logs, feature.DefaultFeatureGate); err != nil {
				return err
			}
			heedMemoryLimit()
			return Run(cmd.Context(), options)
		},
	}
	command.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		if errors.Is(err, pflag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w; --help lists the flags", err)
	})
	sections := options.Flags()
	for _, set := range sections.FlagSets {
		command.Flags().AddFlagSet(set)
	}
	// Zero, where there is no terminal, leaves the lines as they are.
	columns, _, _ := term.GetSize(int(os.Stdout.Fd()))
	cliflag.SetUsageAndHelpFunc(command, sections, columns)
	return command
}

// heedMemoryLimit has the garbage collector keep to nine tenths of the memory that the process's
// cgroup has: it would let the heap grow to twice of what is in use otherwise, and the kernel would
// end the server though it did not need that much. GOMEMLIMIT overrides it.
func heedMemoryLimit() {
	switch limit, err := memlimit.Set(); {
	case err != nil:
		klog.InfoS("The limit of this process's memory is not known, so its garbage collector heeds none", "why", err.Error())
	case limit < math.MaxInt64:
		klog.InfoS("The garbage collector heeds a limit of memory", "bytes", limit)
	}
}
